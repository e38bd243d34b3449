"""Which cluster networks are here and what a newer word changes."""

import pytest
from msgspec.structs import replace

from agent.network.desired import ClusterNetworks
from agent.network.overlays import Overlays
from agent.network.plan import Entries
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService
from shoal.model.errors import Unavailable
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.spec.service import PortConfig

RED = AssignedNetwork(id=NetworkID("red"), name="red", vni=4097)
INNER = AssignedNetwork(id=NetworkID("inner"), name="inner", vni=4098, internal=True)


def endpoint(number: int, node: str = "b", network: str = "red") -> NetworkEndpoint:
    return NetworkEndpoint(
        network_id=NetworkID(network),
        task_id=TaskID(f"t{number}"),
        node_id=NodeID(node),
        underlay=f"192.0.2.{ord(node)}",
        addresses=(f"10.9.0.{number}", f"fd00::{number}"),
        mac=f"02:00:00:00:00:{number:02x}",
    )


def word(
    *endpoints: NetworkEndpoint, networks: tuple[AssignedNetwork, ...] = (RED, INNER)
) -> ClusterNetworks:
    return ClusterNetworks(
        node_id=NodeID("a"),
        underlay="192.0.2.97",
        networks={each.id: each for each in networks},
        endpoints={each.key: each for each in endpoints},
        services={},
    )


def here(told: ClusterNetworks) -> Overlays:
    overlays = Overlays()
    overlays.tell(told)
    assert overlays.arrive(RED.id)
    return overlays


def entries(*endpoints: NetworkEndpoint) -> Entries:
    return Entries(
        neighbours={a: each.mac for each in endpoints for a in each.addresses},
        forwarding={each.mac: each.underlay for each in endpoints},
        bridged=True,
    )


def test_only_what_is_remote_and_of_this_network_is_an_entry() -> None:
    told = word(endpoint(1), endpoint(2, "a"), endpoint(3, network="inner"))
    planned = here(told).planned()
    assert list(planned) == ["red"]
    assert planned[RED.id].entries == entries(endpoint(1))
    assert planned[RED.id].underlay == "192.0.2.97"


def test_a_change_is_as_large_as_what_changed() -> None:
    overlays = here(word(endpoint(1), endpoint(2), endpoint(3)))
    rebuilt, changes = overlays.tell(word(endpoint(1), endpoint(2, "c"), endpoint(4)))
    assert not rebuilt
    (change,) = changes
    assert change.vni == 4097
    assert change.gone == entries(endpoint(2), endpoint(3))
    assert change.come == entries(endpoint(2, "c"), endpoint(4))
    assert overlays.planned()[RED.id].entries == entries(
        endpoint(1), endpoint(2, "c"), endpoint(4)
    )
    assert overlays.tell(word(endpoint(1), endpoint(2, "c"), endpoint(4))) == (False, [])


def test_a_task_that_moves_here_is_no_entry_any_more() -> None:
    overlays = here(word(endpoint(1)))
    _, (change,) = overlays.tell(word(endpoint(1, "a")))
    assert (change.gone, change.come) == (entries(endpoint(1)), entries())
    _, (change,) = overlays.tell(word(endpoint(1)))
    assert (change.gone, change.come) == (entries(), entries(endpoint(1)))


def test_what_changes_nothing_for_the_kernel_is_no_change() -> None:
    overlays = here(word(endpoint(1)))
    _, changes = overlays.tell(word(replace(endpoint(1), serving=True)))
    assert all(change.gone == change.come for change in changes)


def test_a_network_that_is_told_of_no_more_stays_while_it_is_used() -> None:
    overlays = here(word(endpoint(1)))
    assert overlays.tell(word(networks=(INNER,))) == (False, [])
    assert overlays.planned()[RED.id].entries == entries(endpoint(1))
    assert overlays.keep(()) is True
    assert overlays.planned() == {}
    assert overlays.keep(()) is False
    with pytest.raises(Unavailable, match="network red is not known on this host yet"):
        overlays.arrive(RED.id)


def test_another_mtu_or_underlay_makes_devices_anew() -> None:
    overlays = here(word())
    assert overlays.tell(word(networks=(replace(RED, mtu=1400),)))[0]
    assert overlays.tell(replace(word(networks=(replace(RED, mtu=1400),)), underlay="::"))[0]


def test_the_gateway_network_is_left_out_of_internal_networks_without_a_port() -> None:
    service = NetworkService(
        network_id=INNER.id, service_id=ServiceID("s"), name="s", ports=(PortConfig(),)
    )
    overlays = here(replace(word(), services={service.key: service}))
    assert not overlays.needs_gateway(["inner"], ServiceID("other"))
    assert overlays.needs_gateway(["inner"], ServiceID("s"))
    assert overlays.needs_gateway(["inner", "red"], ServiceID("other"))
    assert overlays.needs_gateway([], ServiceID("other"))
    assert overlays.needs_gateway(["unknown"], ServiceID("other"))


def test_an_encrypted_network_leads_to_hosts_that_answered_only() -> None:
    secret = replace(RED, encrypted=True)
    told = word(endpoint(1, "b"), endpoint(2, "c"), networks=(secret,))
    overlays = here(told)
    planned = overlays.planned()[RED.id]
    assert planned.encrypted
    assert planned.entries.forwarding == {}
    assert overlays.sealed() == {RED.id: "red"}
    assert overlays.reach({NodeID("b"): "10.0.2.254"})
    assert not overlays.reach({NodeID("b"): "10.0.2.254"})
    planned = overlays.planned()[RED.id]
    assert planned.entries.forwarding == {"02:00:00:00:00:01": "10.0.2.254"}
    assert len(planned.entries.neighbours) == 4
    # what comes and goes is known by the same way
    _, (change,) = overlays.tell(word(endpoint(2, "c"), endpoint(3, "b"), networks=(secret,)))
    assert change.gone.forwarding == {"02:00:00:00:00:01": "10.0.2.254"}
    assert change.come.forwarding == {"02:00:00:00:00:03": "10.0.2.254"}


def test_other_networks_do_not_care_about_the_tunnel() -> None:
    overlays = here(word(endpoint(1)))
    assert overlays.sealed() == {}
    assert not overlays.reach({NodeID("b"): "10.0.2.254"})
    assert overlays.planned()[RED.id].entries == entries(endpoint(1))
