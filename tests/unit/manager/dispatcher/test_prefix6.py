"""The cluster's IPv6 prefix: one for each cluster, the same at each manager, a valid ULA."""

from ipaddress import IPv6Network

from manager.dispatcher.assignments import mesh_prefix6
from shoal.model.ids import ClusterID


def test_each_cluster_has_its_own() -> None:
    prefixes = {mesh_prefix6(ClusterID(f"c{number}")) for number in range(100)}
    assert len(prefixes) == 100
    for each in prefixes:
        network = IPv6Network(each)
        assert network.prefixlen == 96
        assert network.subnet_of(IPv6Network("fd00::/8"))


def test_it_never_changes() -> None:
    """Running containers have addresses of it."""
    assert mesh_prefix6(ClusterID("c1")) == "fdd0:f631:ca1d:dba8:db3b:cfcb::/96"
