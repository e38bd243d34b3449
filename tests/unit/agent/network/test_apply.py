"""Comparisons of planned with present links."""

from ipaddress import IPv4Network

from msgspec.structs import replace

from agent.network import rtnetlink as rt
from agent.network.apply import (
    address_changes,
    entry_changes,
    link_changes,
    port_changes,
    stray_links,
)
from agent.network.desired import Endpoint, Interface, Mesh
from agent.network.netlink import Request
from agent.network.plan import Entries, Overlay, PortFlags, make_plan, names_for
from shoal.model.ids import NetworkID

NAMES = names_for("sh0")
LOCAL = IPv4Network("172.29.0.0/16")
MESH = Mesh(subnet="10.0.1.0/24", underlay="192.0.2.1")
WEB = Endpoint(
    container="web",
    interfaces=(Interface(network="bridge", link="sh0ac1d0002", addresses=("172.29.0.2/16",)),),
)
PLAN = make_plan(NAMES, LOCAL, MESH, [WEB])
NO_MESH = make_plan(NAMES, LOCAL, None, [WEB])

BRIDGE = rt.Link(
    index=5, name="sh0-l", kind="bridge", up=True, mtu=1500, mac="02:42:ac:1d:00:01", master=0
)
MESH_BRIDGE = replace(BRIDGE, index=6, name="sh0-c", mtu=1450, mac="02:42:0a:00:01:01")
VXLAN = rt.Link(
    index=7,
    name="sh0-x",
    kind="vxlan",
    up=True,
    mtu=1450,
    mac="02:53:0a:00:01:01",
    master=0,
    vni=4095,
    port=4789,
    local="192.0.2.1",
)
VETH = rt.Link(
    index=8,
    name="sh0ac1d0002",
    kind="veth",
    up=True,
    mtu=1500,
    mac="",
    master=5,
    flags=PortFlags(hairpin=True),
)


def links(*present: rt.Link) -> dict[str, rt.Link]:
    return {link.name: link for link in present}


def said(requests: list[Request]) -> list[str]:
    return [request.what for request in requests]


def test_nothing_to_do() -> None:
    present = links(BRIDGE, MESH_BRIDGE, VXLAN, VETH)
    assert link_changes(NAMES, PLAN, present, keep_mesh=False) == []
    assert port_changes(PLAN, present) == []
    assert stray_links(NAMES, PLAN, present) == []


def test_missing_changed_and_foreign_devices() -> None:
    present = links(replace(BRIDGE, kind="dummy"), replace(VXLAN, port=4790))
    assert said(link_changes(NAMES, PLAN, present, keep_mesh=False)) == [
        "delete link sh0-l",
        "create bridge sh0-l",
        "no address of its own on sh0-l",
        "set sh0-l up",
        "create bridge sh0-c",
        "no address of its own on sh0-c",
        "set sh0-c up",
        "delete link sh0-x",
        "create VXLAN device sh0-x",
        "no address of its own on sh0-x",
        "set sh0-x up",
    ]
    down = links(replace(BRIDGE, up=False))
    assert said(link_changes(NAMES, NO_MESH, down, keep_mesh=False)) == ["set link sh0-l"]


def test_mesh_goes_unless_kept() -> None:
    present = links(BRIDGE, MESH_BRIDGE, VXLAN)
    assert link_changes(NAMES, NO_MESH, present, keep_mesh=True) == []
    assert said(link_changes(NAMES, NO_MESH, present, keep_mesh=False)) == [
        "delete link sh0-x",
        "delete link sh0-c",
    ]


def test_each_bridge_has_its_one_address() -> None:
    found = [
        rt.Address(index=5, address="172.29.0.1/24"),
        rt.Address(index=5, address="fe80::1234/64"),
        rt.Address(index=9, address="192.0.2.1/24"),
    ]
    assert said(address_changes(NO_MESH, links(BRIDGE), found)) == [
        "delete address 172.29.0.1/24",
        "add address 172.29.0.1/16",
    ]


def test_ports_return_to_their_bridge_and_strays_go() -> None:
    present = links(BRIDGE, replace(VETH, master=0), replace(VETH, name="sh0ac1d0009"))
    assert said(port_changes(NO_MESH, present)) == [
        "set link sh0ac1d0002",
        "set flags of sh0ac1d0002",
    ]
    assert said(stray_links(NAMES, NO_MESH, present)) == ["delete link sh0ac1d0009"]
    assert port_changes(NO_MESH, links(BRIDGE)) == []


def test_a_network_that_nobody_is_on_goes_unless_kept() -> None:
    present = links(
        BRIDGE, replace(BRIDGE, name="sh0-b001001"), replace(VXLAN, name="sh0-v001001")
    )
    assert said(link_changes(NAMES, NO_MESH, present, keep_mesh=False)) == [
        "delete link sh0-v001001",
        "delete link sh0-b001001",
    ]
    kept = link_changes(NAMES, NO_MESH, present, keep_mesh=False, keep_overlays=True)
    assert kept == []


def test_a_device_that_does_not_answer_itself_is_made_anew() -> None:
    overlay = Overlay(
        vni=0x1001,
        underlay="192.0.2.1",
        mtu=0,
        entries=Entries(neighbours={}, forwarding={}, bridged=True),
    )
    plan = make_plan(NAMES, LOCAL, None, (), {NetworkID("red"): overlay})
    bridge = replace(BRIDGE, name="sh0-b001001", mtu=1450, mac="02:54:00:00:10:01")
    vxlan = replace(VXLAN, name="sh0-v001001", vni=0x1001, mac="02:55:00:00:10:01", proxy=True)
    there = links(BRIDGE, bridge, vxlan)
    assert link_changes(NAMES, plan, there, keep_mesh=False) == []
    there = links(BRIDGE, bridge, replace(vxlan, proxy=False))
    assert said(link_changes(NAMES, plan, there, keep_mesh=False))[:2] == [
        "delete link sh0-v001001",
        "create VXLAN device sh0-v001001",
    ]
    assert said(port_changes(plan, there)) == [
        "set link sh0-v001001",
        "set flags of sh0-v001001",
    ]


def test_filtering_follows_the_host() -> None:
    mesh_bridge = replace(MESH_BRIDGE, filtered=True)
    present = links(BRIDGE, mesh_bridge, VXLAN)
    assert said(link_changes(NAMES, PLAN, present, keep_mesh=False)) == [
        "set filtering of sh0-c"
    ]


def test_entries_that_moved_are_replaced_not_taken_away() -> None:
    wanted = Entries(
        neighbours={"10.0.0.2": "02:00:00:00:00:02", "fd00::2": "02:00:00:00:00:02"},
        forwarding={"02:00:00:00:00:02": "192.0.2.2"},
        bridged=True,
    )
    present = {"10.0.0.2": "02:00:00:00:00:02", "10.0.0.9": "02:00:00:00:00:09"}
    forwarding = [
        ("02:00:00:00:00:02", "192.0.2.9"),
        ("02:00:00:00:00:02", ""),
        ("02:00:00:00:00:09", ""),
    ]
    assert said(entry_changes(7, wanted, present, forwarding)) == [
        "delete neighbour 10.0.0.9",
        "forget 02:00:00:00:00:09",
        "add neighbour fd00::2",
        "forward 02:00:00:00:00:02 to 192.0.2.2",
    ]
    assert (
        entry_changes(
            7,
            wanted,
            wanted.neighbours,
            [("02:00:00:00:00:02", "192.0.2.2"), ("02:00:00:00:00:02", "")],
        )
        == []
    )
