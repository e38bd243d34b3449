"""Comparisons of planned with present links."""

from ipaddress import IPv4Network

from msgspec.structs import replace

from agent.network import rtnetlink as rt
from agent.network.apply import address_changes, link_changes, port_changes, stray_links
from agent.network.desired import Endpoint, Mesh
from agent.network.netlink import Request
from agent.network.plan import make_plan, names_for

NAMES = names_for("sh0")
LOCAL = IPv4Network("172.29.0.0/16")
MESH = Mesh(subnet="10.0.1.0/24", underlay="192.0.2.1")
WEB = Endpoint(container="web", network="bridge", address="172.29.0.2")
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
    hairpin=True,
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
        "create bridge sh0-c",
        "delete link sh0-x",
        "create VXLAN device sh0-x",
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
        rt.Address(index=5, address="172.29.0.1", prefix_length=24),
        rt.Address(index=9, address="192.0.2.1", prefix_length=24),
    ]
    assert said(address_changes(NO_MESH, links(BRIDGE), found)) == [
        "delete address 172.29.0.1",
        "add address 172.29.0.1",
    ]


def test_ports_return_to_their_bridge_and_strays_go() -> None:
    present = links(BRIDGE, replace(VETH, master=0), replace(VETH, name="sh0ac1d0009"))
    assert said(port_changes(NO_MESH, present)) == [
        "set link sh0ac1d0002",
        "set hairpin on sh0ac1d0002",
    ]
    assert said(stray_links(NAMES, NO_MESH, present)) == ["delete link sh0ac1d0009"]
    assert port_changes(NO_MESH, links(BRIDGE)) == []
