"""What did not change is not made again, and what is used again is as if it were."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.network.desired import ClusterNetworks
from agent.network.views import ClusterViews
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService, Subnet
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.spec.service import PortConfig

NET, OTHER = NetworkID("net"), NetworkID("other")

networks_there = st.dictionaries(
    st.sampled_from([NET, OTHER]), st.sampled_from(["front", "Back"]), max_size=2
)
services_there = st.dictionaries(
    st.tuples(st.sampled_from([NET, OTHER]), st.sampled_from(["a", "b", "c"])),
    st.tuples(
        st.sampled_from(["web", "Db", "shared"]),
        st.sampled_from([(), ("10.0.0.9",), ("10.0.0.8", "fd00::8")]),
        st.sampled_from([(), ("shared", "www")]),
    ),
    max_size=4,
)
endpoints_there = st.dictionaries(
    st.tuples(st.sampled_from([NET, OTHER]), st.integers(1, 6)),
    st.tuples(st.sampled_from(["a", "b", "c", ""]), st.booleans(), st.booleans()),
    max_size=6,
)


def told(
    networks: dict[NetworkID, str],
    services: dict[tuple[NetworkID, str], tuple[str, tuple[str, ...], tuple[str, ...]]],
    endpoints: dict[tuple[NetworkID, int], tuple[str, bool, bool]],
) -> ClusterNetworks:
    placed = [
        NetworkEndpoint(
            network_id=network,
            task_id=TaskID(f"t{number}"),
            node_id=NodeID("n"),
            underlay="192.0.2.1",
            addresses=(f"10.0.1.{number}", f"fd01::{number}"),
            mac="",
            names=(f"x.{number}", *(("shared",) if shares else ())),
            service_id=ServiceID(service),
            serving=serving,
        )
        for (network, number), (service, serving, shares) in endpoints.items()
    ]
    known = [
        NetworkService(
            network_id=network,
            service_id=ServiceID(service),
            name=name,
            virtual_ips=virtual,
            aliases=aliases,
            ports=(PortConfig(name="http", target_port=80),),
        )
        for (network, service), (name, virtual, aliases) in services.items()
    ]
    return ClusterNetworks(
        node_id=NodeID("n"),
        underlay="192.0.2.1",
        networks={
            key: AssignedNetwork(id=key, name=name, subnets=(Subnet(subnet="10.0.1.0/24"),))
            for key, name in networks.items()
        },
        endpoints={each.key: each for each in placed},
        services={each.key: each for each in known},
    )


@given(st.lists(st.builds(told, networks_there, services_there, endpoints_there), max_size=5))
def test_views_after_changes_are_as_if_made_at_once(words: list[ClusterNetworks]) -> None:
    views = ClusterViews()
    for word in words:
        assert views.update(word) == ClusterViews().update(word)


def test_a_change_of_one_service_leaves_other_networks_views_alone() -> None:
    first = told(
        {NET: "front", OTHER: "back"},
        {(NET, "a"): ("web", ("10.0.0.9",), ()), (OTHER, "b"): ("db", (), ())},
        {(NET, 1): ("a", True, False), (OTHER, 2): ("b", True, False)},
    )
    views = ClusterViews()
    before = views.update(first)
    (key,) = (key for key, each in first.endpoints.items() if each.network_id == NET)
    changed = msgspec.structs.replace(first.endpoints[key], serving=False)
    second = msgspec.structs.replace(first, endpoints={**first.endpoints, key: changed})
    after = views.update(second)
    assert after[OTHER] is before[OTHER]
    assert after[NET].virtual_ips == {"10.0.0.9": ()}
