"""What links, routes and entries follow from mesh and endpoints."""

from ipaddress import IPv4Network

import pytest
from msgspec.structs import replace

from agent.network.desired import Endpoint, Mesh, Peer
from agent.network.plan import (
    Forwarding,
    Neighbour,
    Port,
    Route,
    check_mesh,
    make_plan,
    names_for,
)
from shoal.model.errors import InvalidArgument

LOCAL = IPv4Network("172.29.0.0/16")
NAMES = names_for("sh0")
MESH = Mesh(
    subnet="10.0.1.0/24",
    underlay="192.0.2.1",
    peers=(
        Peer(node="c", underlay="192.0.2.3", subnet="10.0.3.0/24"),
        Peer(node="a", underlay="192.0.2.1", subnet="10.0.1.0/24"),
        Peer(node="b", underlay="192.0.2.2", subnet="10.0.2.0/24"),
    ),
)


def test_without_mesh_there_is_one_bridge() -> None:
    alone = Endpoint(container="alone", network="none")
    plan = make_plan(NAMES, LOCAL, None, [alone])
    assert [(b.name, b.address, b.prefix_length) for b in plan.bridges] == [
        ("sh0-l", "172.29.0.1", 16)
    ]
    assert plan.vxlan is None
    assert plan.ports == ()


def test_each_peer_is_one_route_neighbour_and_forwarding_entry() -> None:
    plan = make_plan(NAMES, LOCAL, MESH, (), underlay_mtu=1400)
    assert plan.vxlan is not None
    assert (plan.vxlan.mac, plan.vxlan.mtu) == ("02:53:0a:00:01:01", 1350)
    assert plan.bridges[1].mtu == 1350
    assert plan.routes == (
        Route(subnet="10.0.2.0/24", via="10.0.2.1", source="10.0.1.1"),
        Route(subnet="10.0.3.0/24", via="10.0.3.1", source="10.0.1.1"),
    )
    assert plan.neighbours[0] == Neighbour(address="10.0.2.1", mac="02:53:0a:00:02:01")
    assert plan.forwarding[0] == Forwarding(mac="02:53:0a:00:02:01", underlay="192.0.2.2")


def test_hosts_agree_on_hardware_addresses() -> None:
    here = make_plan(NAMES, LOCAL, MESH, ())
    there = make_plan(NAMES, LOCAL, replace(MESH, subnet="10.0.2.0/24"), ())
    assert there.vxlan is not None
    assert there.vxlan.mac == here.neighbours[0].mac


def test_endpoints_are_ports_of_their_bridge() -> None:
    endpoints = [
        Endpoint(container="t", network="mesh", address="10.0.1.2"),
        Endpoint(container="p", network="bridge", address="172.29.0.2"),
    ]
    assert make_plan(NAMES, LOCAL, MESH, endpoints).ports == (
        Port(name="sh00a000102", bridge="sh0-c"),
        Port(name="sh0ac1d0002", bridge="sh0-l"),
    )


def test_an_instance_owns_its_own_names_only() -> None:
    for own in ("sh0-l", "sh0-c", "sh0-x", "sh0ac1d0002"):
        assert NAMES.owns(own)
    for foreign in ("eth0", "sh0", "sh0-y", "sh01ac1d0002", "sh1-l", "ac1d0002"):
        assert not NAMES.owns(foreign)
    longest = names_for("abcdef").veth("255.255.255.255")
    assert len(longest) <= 15


@pytest.mark.parametrize("prefix", ["", "abcdefg", "0ab", "a-b", "Ab"])
def test_bad_prefix(prefix: str) -> None:
    with pytest.raises(InvalidArgument, match="prefix"):
        names_for(prefix)


@pytest.mark.parametrize(
    ("mesh", "sentence"),
    [
        (replace(MESH, subnet="10.0.2.0/25"), "overlap"),
        (replace(MESH, subnet="172.29.3.0/24"), "local network"),
        (replace(MESH, subnet="10.0.9.1/24"), "host bits"),
        (replace(MESH, underlay="nowhere"), "nowhere"),
    ],
)
def test_impossible_mesh(mesh: Mesh, sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        check_mesh(mesh, LOCAL)


def test_possible_mesh() -> None:
    check_mesh(MESH, LOCAL)
