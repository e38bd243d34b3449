"""What links, routes and entries follow from mesh, networks and endpoints."""

from ipaddress import IPv4Network

import pytest
from msgspec.structs import replace

from agent.network.desired import Endpoint, Interface, Mesh, Peer
from agent.network.plan import (
    Entries,
    Ground,
    Overlay,
    Port,
    PortFlags,
    Route,
    check_mesh,
    ipv6_of,
    ipv6_subnet_of,
    make_plan,
    names_for,
)
from shoal.model.errors import InvalidArgument
from shoal.model.ids import NetworkID

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
ENTRIES = Entries(
    neighbours={"10.9.0.3": "02:00:00:00:00:03"},
    forwarding={"02:00:00:00:00:03": "192.0.2.3"},
    bridged=True,
)
RED = Overlay(vni=0x1001, underlay="192.0.2.1", mtu=0, entries=ENTRIES)


def place(network: str, link: str) -> Endpoint:
    return Endpoint(container="c", interfaces=(Interface(network=network, link=link),))


def test_without_mesh_there_is_one_bridge() -> None:
    plan = make_plan(NAMES, LOCAL, None, [Endpoint(container="alone")])
    assert [(b.name, b.addresses, b.mac) for b in plan.bridges] == [
        ("sh0-l", ("172.29.0.1/16",), "02:42:ac:1d:00:01")
    ]
    assert plan.vxlans == ()
    assert plan.ports == ()


def test_each_peer_is_one_route_neighbour_and_forwarding_entry() -> None:
    plan = make_plan(NAMES, LOCAL, MESH, (), ground=Ground(underlay_mtu=1400))
    assert [(v.mac, v.mtu, v.proxy) for v in plan.vxlans] == [
        ("02:53:0a:00:01:01", 1350, False)
    ]
    assert plan.bridges[1].mtu == 1350
    assert plan.routes == (
        Route(subnet="10.0.2.0/24", via="10.0.2.1", source="10.0.1.1"),
        Route(subnet="10.0.3.0/24", via="10.0.3.1", source="10.0.1.1"),
    )
    assert plan.entries["sh0-x"] == Entries(
        neighbours={"10.0.2.1": "02:53:0a:00:02:01", "10.0.3.1": "02:53:0a:00:03:01"},
        forwarding={"02:53:0a:00:02:01": "192.0.2.2", "02:53:0a:00:03:01": "192.0.2.3"},
    )


def test_ipv6_of_the_mesh_follows_from_its_ipv4() -> None:
    assert ipv6_of("fd00:5::/96", "10.0.1.2") == "fd00:5::a00:102"
    assert ipv6_subnet_of("fd00:5::/96", "10.0.1.0/24") == "fd00:5::a00:100/120"
    mesh = replace(MESH, prefix6="fd00:5::/96")
    plan = make_plan(NAMES, LOCAL, mesh, ())
    assert plan.bridges[1].addresses == ("10.0.1.1/24", "fd00:5::a00:101/120", "fe80::1/64")
    assert plan.routes[2] == Route(
        subnet="fd00:5::a00:200/120", via="fd00:5::a00:201", source="fd00:5::a00:101"
    )
    assert plan.entries["sh0-x"].neighbours["fd00:5::a00:201"] == "02:53:0a:00:02:01"
    without = make_plan(NAMES, LOCAL, mesh, (), ground=Ground(ipv6=False))
    assert without == make_plan(NAMES, LOCAL, MESH, ())


def test_hosts_agree_on_hardware_addresses() -> None:
    here = make_plan(NAMES, LOCAL, MESH, ())
    there = make_plan(NAMES, LOCAL, replace(MESH, subnet="10.0.2.0/24"), ())
    assert there.vxlans[0].mac == here.entries["sh0-x"].neighbours["10.0.2.1"]


def test_a_cluster_network_is_a_bridge_without_address_and_a_device_that_answers() -> None:
    plan = make_plan(NAMES, LOCAL, MESH, (), {NetworkID("red"): RED})
    bridge, vxlan = plan.bridges[-1], plan.vxlans[-1]
    assert (bridge.name, bridge.addresses, bridge.mtu) == ("sh0-b001001", (), 1450)
    assert (vxlan.name, vxlan.vni, vxlan.port, vxlan.proxy) == (
        "sh0-v001001",
        0x1001,
        4789,
        True,
    )
    assert plan.entries[vxlan.name] == ENTRIES
    flags = PortFlags(learning=False, flood=False)
    assert plan.ports == (Port(name=vxlan.name, bridge=bridge.name, flags=flags),)
    wished = make_plan(NAMES, LOCAL, MESH, (), {NetworkID("red"): replace(RED, mtu=1280)})
    assert (wished.bridges[-1].mtu, wished.vxlans[-1].mtu) == (1280, 1280)


def test_an_encrypted_network_is_sent_from_inside_the_tunnel() -> None:
    sealed = {NetworkID("red"): replace(RED, encrypted=True)}
    plan = make_plan(NAMES, LOCAL, MESH, (), sealed)
    assert (plan.vxlans[-1].local, plan.vxlans[-1].mtu, plan.bridges[-1].mtu) == (
        "",
        1390,
        1390,
    )
    over6 = {NetworkID("red"): replace(RED, encrypted=True, underlay="2001:db8::1")}
    assert make_plan(NAMES, LOCAL, MESH, (), over6).vxlans[-1].mtu == 1370


def test_interfaces_are_ports_of_their_bridge() -> None:
    endpoints = [
        place("mesh", "sh00a000102"),
        place("bridge", "sh0ac1d0002"),
        place("red", "sh0-00000001"),
        place("unknown", "sh0-00000002"),
    ]
    overlays = {NetworkID("red"): RED}
    plan = make_plan(NAMES, LOCAL, MESH, endpoints, overlays)
    assert plan.ports[1:] == (
        Port(name="sh0-00000001", bridge="sh0-b001001"),
        Port(name="sh00a000102", bridge="sh0-c", flags=PortFlags(hairpin=True, isolated=True)),
        Port(name="sh0ac1d0002", bridge="sh0-l", flags=PortFlags(hairpin=True)),
    )
    assert "sh0-00000002" in plan.links
    # where frames pass the host's rules, those keep tasks apart
    filtered = make_plan(NAMES, LOCAL, MESH, endpoints[:1], ground=Ground(filtered=True))
    assert filtered.ports[0].flags == PortFlags(hairpin=True)
    assert filtered.bridges[1].filtered


def test_an_instance_owns_its_own_names_only() -> None:
    for own in (
        "sh0-l",
        "sh0-c",
        "sh0-x",
        "sh0ac1d0002",
        "sh0-00000001",
        "sh0-b001001",
        "sh0-w1",
    ):
        assert NAMES.owns(own)
    for foreign in (
        "eth0",
        "sh0",
        "sh0-y",
        "sh01ac1d0002",
        "sh1-l",
        "ac1d0002",
        "sh0-b1",
        "sh0-001001",
    ):
        assert not NAMES.owns(foreign)
    longest = names_for("abcdef").veth("255.255.255.255")
    assert len(longest) <= 15
    longest_names = names_for("abcdef")
    assert len(longest_names.link(1 << 40)) <= 15
    assert len(longest_names.overlay_bridge((1 << 24) - 1)) <= 15
    assert NAMES.vni_of("sh0-v001001") == 0x1001
    assert NAMES.vni_of("sh0-c") == 0


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
        (replace(MESH, prefix6="fd00::/64"), "/96"),
    ],
)
def test_impossible_mesh(mesh: Mesh, sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        check_mesh(mesh, LOCAL)


def test_possible_mesh() -> None:
    check_mesh(MESH, LOCAL)
