import msgspec
import pytest

from manager.allocator import networks, vni
from manager.allocator.pools import first_free, span_of
from manager.store.tables import Tables
from shoal.model.addresses import network_of
from shoal.model.ids import NetworkID, NodeID
from shoal.model.objects import Network, NetworkPool, Node
from shoal.model.spec.network import VXLAN_IDS, IPAMConfig
from tests.unit.manager.allocator.clusters import (
    allocated,
    cluster,
    network,
    service,
    tables,
    task,
)


def found(view: Tables, name: str) -> Network:
    one = view.network(NetworkID(name))
    assert one is not None
    return one


def why(view: Tables, name: str) -> str | None:
    return networks.why_unallocated(view, view.network(NetworkID(name)), name)


def test_automatic_subnets_meet_nothing() -> None:
    view = tables(
        network("a"),
        network("b"),
        network("c", "10.0.2.128/25"),
        Node(id=NodeID("n"), addr="10.0.0.7", data_path_addr="not an address"),
    )
    allocated(view)
    subnets = [found(view, name).pools[0].subnet for name in "abc"]
    assert subnets == ["10.0.1.0/24", "10.0.3.0/24", "10.0.2.128/25"]
    assert len({found(view, name).vni for name in "abc"}) == 3


def test_the_pool_of_the_nodes_is_left_alone() -> None:
    view = Tables()
    view.put(cluster(default_addr_pool=("10.127.255.0/24", "10.128.0.0/9"), subnet_size=24))
    view.put(network("a"))
    view.put(network("b"))
    allocated(view)
    assert found(view, "a").pools[0].subnet == "10.127.255.0/24"
    assert not found(view, "b").allocated
    assert why(view, "b") == (
        "network b: no free /24 subnet in 10.127.255.0/24, 10.128.0.0/9: all are in use"
    )


def test_a_pool_of_the_users_own() -> None:
    view = Tables()
    view.put(cluster(default_addr_pool=("172.20.0.0/16", "172.30.0.0/28"), subnet_size=20))
    for number in range(17):
        view.put(network(f"n{number:02}"))
    allocated(view)
    subnets = [one.pools[0].subnet for one in view.networks() if one.pools]
    assert subnets[:2] == ["172.20.0.0/20", "172.20.16.0/20"]
    assert len(set(subnets)) == 16


def test_dual_stack_without_a_word_gets_a_unique_local_prefix() -> None:
    view = allocated(tables(network("a", enable_ipv6=True), network("b", enable_ipv6=True)))
    six = [found(view, name).pools[1] for name in "ab"]
    assert all(pool.subnet.startswith("fd") and pool.subnet.endswith("/64") for pool in six)
    assert six[0].subnet != six[1].subnet
    assert six[0].gateway == six[0].subnet.removesuffix("/64") + "1"


def test_gateway_is_the_first_address_that_is_not_reserved() -> None:
    config = IPAMConfig(
        subnet="10.9.0.0/24", auxiliary_addresses={"a": "10.9.0.1", "b": "10.9.0.2"}
    )
    view = allocated(tables(network("a", config=(config,))))
    assert found(view, "a").pools[0].gateway == "10.9.0.3"


def test_identifiers_asked_for_twice() -> None:
    view = allocated(
        tables(
            network("a", options={VXLAN_IDS: "5000"}),
            network("b", options={VXLAN_IDS: "5000"}),
        )
    )
    assert found(view, "a").vni == 5000
    assert why(view, "b") == "network b: VXLAN identifier 5000 belongs to network a"


def test_overlapping_subnets_of_two_writers_at_once() -> None:
    view = allocated(tables(network("a", "10.9.0.0/16"), network("b", "10.9.7.0/24")))
    assert found(view, "a").allocated
    assert why(view, "b") == (
        "network b: subnet 10.9.7.0/24 overlaps with 10.9.0.0/16 of network a"
    )


def test_vnis_are_spread_and_never_taken() -> None:
    taken: set[int] = set()
    for number in range(500):
        one = vni.choose(NetworkID(f"n{number}"), taken)
        assert one is not None
        assert vni.FIRST <= one <= vni.LAST
        assert one not in taken
        taken.add(one)
    first = vni.choose(NetworkID("n0"), set())
    assert first is not None
    assert vni.choose(NetworkID("n0"), {first}) == (
        first + 1 if first < vni.LAST else vni.FIRST
    )


def test_a_removed_network_goes_with_its_last_task() -> None:
    web = service("web", "a")
    view = allocated(tables(network("a"), web, task(web, "t")))
    view.put(msgspec.structs.replace(found(view, "a"), pending_delete=True))
    allocated(view)
    assert view.network(NetworkID("a")) is not None
    view.drop("web")
    view.drop("t")
    allocated(view)
    assert view.network(NetworkID("a")) is None


@pytest.mark.parametrize(
    ("pool", "size", "taken", "expected"),
    [
        ("10.0.0.0/30", 30, [], "10.0.0.0/30"),
        ("10.0.0.0/30", 31, ["10.0.0.1/32"], "10.0.0.2/31"),
        ("10.0.0.0/30", 31, ["10.0.0.0/24"], None),
        ("10.0.0.0/24", 26, ["10.0.0.0/25", "10.0.0.10/32"], "10.0.0.128/26"),
        ("10.0.0.0/24", 26, ["10.0.0.64/26", "9.0.0.0/8"], "10.0.0.0/26"),
        ("10.0.0.0/24", 23, [], None),
        ("255.255.255.0/24", 25, ["255.255.255.0/25"], "255.255.255.128/25"),
        ("255.255.255.0/24", 25, ["255.255.255.128/25", "255.255.255.0/32"], None),
    ],
)
def test_first_free(pool: str, size: int, taken: list[str], expected: str | None) -> None:
    spans = [span_of(network_of(one)) for one in taken]
    assert first_free([pool], size, spans) == expected


def test_the_ingress_network_stands_for_the_nodes_pool() -> None:
    one = network("ingress", ingress=True)
    view = allocated(tables(one))
    assert found(view, "ingress").pools == (NetworkPool(subnet="10.128.0.0/9"),)
    assert found(view, "ingress").vni == vni.GATEWAY
