"""What rtnetlink is told and what it answers: encoders of changes, decoders of dumps.

Pure bytes, no sockets: `netlink.Channel` carries them. Constants are those of
`linux/rtnetlink.h`, `if_link.h` and `neighbour.h`.
"""

import errno
import socket
import struct
from collections.abc import Mapping

import msgspec

from agent.network.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Message,
    Request,
    attribute,
    attributes,
    nested,
    text,
    u32,
)
from agent.network.plan import Bridge, PortFlags, Vxlan

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
GROUP_LINK, GROUP_NEIGH = 1, 3
GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE = 5, 7, 9, 11

UP = 0x1
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_INET, _INET6, _BRIDGE = socket.AF_INET, socket.AF_INET6, 7
_FAMILIES = (_INET, _INET6)
_MAIN_TABLE, _PROTOCOL_STATIC, _UNIVERSE, _UNICAST, _ONLINK = 254, 4, 0, 1, 4
_PERMANENT, _STATIC, _SELF, _MASTER = 0x80, 0x40, 0x2, 0x4
_NO_DETECTION = 0x2
_SKIP_STATISTICS = 8


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link as the kernel has it.

    The VXLAN fields are 0 or "" for other kinds, `flags` what it is as a bridge's port.
    """

    index: int
    name: str
    kind: str
    up: bool
    mtu: int
    mac: str
    master: int
    alias: str = ""
    flags: PortFlags = PortFlags()
    filtered: bool = False
    vni: int = 0
    port: int = 0
    local: str = ""
    proxy: bool = False


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address on a link, with prefix length."""

    index: int
    address: str


class FoundRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the main table over a link."""

    index: int
    subnet: str
    via: str
    source: str


class FoundNeighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A permanent neighbour: address to MAC."""

    index: int
    address: str
    mac: str


class FoundForwarding(msgspec.Struct, frozen=True, kw_only=True):
    """A static forwarding entry: MAC to host, or where `underlay` is "" to the bridge port."""

    index: int
    mac: str
    underlay: str


def new_bridge(bridge: Bridge) -> Request:
    """A bridge, up, without snooping (which loses multicast on idle bridges)."""
    filtered = b"\1" if bridge.filtered else b"\0"
    data = nested(2, attribute(23, b"\0"), attribute(36, filtered), attribute(37, filtered))
    body = _link() + text(3, bridge.name) + u32(4, bridge.mtu)
    body += attribute(1, mac_bytes(bridge.mac)) + nested(18, text(1, "bridge"), data)
    return Request(f"create bridge {bridge.name}", NEWLINK, CREATE | EXCL, body)


def set_filtered(name: str, *, filtered: bool) -> Request:
    """Whether a bridge shows its frames to the host's rules, where the host can do so."""
    value = b"\1" if filtered else b"\0"
    data = nested(2, attribute(36, value), attribute(37, value))
    body = _link() + text(3, name) + nested(18, text(1, "bridge"), data)
    return Request(f"set filtering of {name}", NEWLINK, 0, body)


def new_vxlan(vxlan: Vxlan) -> Request:
    """A VXLAN device that learns nothing."""
    local = attribute(4, socket.inet_aton(vxlan.local)) if vxlan.local else b""
    data = nested(
        2,
        u32(1, vxlan.vni) + local,
        attribute(7, b"\0"),
        attribute(11, b"\1" if vxlan.proxy else b"\0"),
        attribute(15, struct.pack(">H", vxlan.port)),
    )
    body = _link() + text(3, vxlan.name) + u32(4, vxlan.mtu)
    body += attribute(1, mac_bytes(vxlan.mac)) + nested(18, text(1, "vxlan"), data)
    return Request(f"create VXLAN device {vxlan.name}", NEWLINK, CREATE | EXCL, body)


def without_own_address(name: str) -> Request:
    """No link-local IPv6 address by itself; to be said before the link is up."""
    body = _link() + text(3, name) + nested(26, nested(_INET6, attribute(8, b"\1")))
    return Request(
        f"no address of its own on {name}", NEWLINK, 0, body, (errno.EAFNOSUPPORT, errno.EINVAL)
    )


def set_up(name: str) -> Request:
    """Set a link up by its name."""
    body = _link(flags=UP) + text(3, name)
    return Request(f"set {name} up", NEWLINK, 0, body)


def new_veth(name: str, bridge: Link, inside: str, mac: str, netns: int) -> Request:
    """A pair: `name` on the bridge and up, `inside` with `mac` in the namespace `netns`."""
    mtu = u32(4, bridge.mtu)
    peer = _link() + text(3, inside) + mtu + attribute(1, mac_bytes(mac)) + u32(28, netns)
    body = _link(flags=UP) + text(3, name) + mtu + u32(10, bridge.index)
    body += nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
    return Request(f"create link {name}", NEWLINK, CREATE | EXCL, body)


def new_device(name: str, kind: str, mtu: int) -> Request:
    """A device of a kind that needs nothing else to be made, up."""
    body = _link(flags=UP) + text(3, name) + u32(4, mtu) + nested(18, text(1, kind))
    return Request(f"create {kind} device {name}", NEWLINK, CREATE | EXCL, body)


_KINDS: Mapping[str, Mapping[str, int]] = {
    "macvlan": {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8},
    "ipvlan": {"l2": 0, "l3": 1, "l3s": 2},
}
_IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A link that stands on another one: `kind` is macvlan or ipvlan."""

    kind: str
    parent: Link
    mode: str
    flag: str = ""
    mtu: int = 0


def new_child(name: str, child: Child, mac: str, netns: int | None = None) -> Request:
    """Make a macvlan or ipvlan device, in the namespace `netns` if it is given."""
    mode = _KINDS[child.kind][child.mode]
    if child.kind == "macvlan":
        data, address = u32(1, mode), attribute(1, mac_bytes(mac))
    else:  # it has its parent's hardware address
        data = attribute(1, struct.pack("=H", mode))
        data += attribute(2, struct.pack("=H", _IPVLAN_FLAGS[child.flag or "bridge"]))
        address = b""
    body = _link() + text(3, name) + u32(5, child.parent.index) + address
    if child.mtu:
        body += u32(4, child.mtu)
    if netns is not None:
        body += u32(28, netns)
    body += nested(18, text(1, child.kind), nested(2, data))
    what = f"create {child.kind} device {name} on {child.parent.name}"
    return Request(what, NEWLINK, CREATE | EXCL, body)


def set_link(
    name: str,
    index: int,
    *,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
) -> Request:
    """Set a link up, and whatever is given."""
    body = _link(index=index, flags=UP)
    if mtu is not None:
        body += u32(4, mtu)
    if mac is not None:
        body += attribute(1, mac_bytes(mac))
    if master is not None:
        body += u32(10, master)
    return Request(f"set link {name}", NEWLINK, 0, body, (errno.ENODEV,))


def set_flags(name: str, flags: PortFlags) -> Request:
    """What a bridge does at this port."""
    wanted = (
        (4, flags.hairpin),
        (8, flags.learning),
        (9, flags.flood),
        (33, flags.isolated),
    )
    values = [attribute(kind, b"\1" if value else b"\0") for kind, value in wanted]
    slave = nested(18, text(4, "bridge"), nested(5, *values))
    body = _link() + text(3, name) + slave
    return Request(f"set flags of {name}", NEWLINK, 0, body, (errno.ENODEV,))


def delete_link(name: str) -> Request:
    """Delete by name; gone is fine."""
    return Request(f"delete link {name}", DELLINK, 0, _link() + text(3, name), (errno.ENODEV,))


def new_address(index: int, address: str) -> Request:
    """An address with prefix length, its broadcast address and (by the kernel) its route.

    IPv6: no other host has it, so nothing is asked before it is used.
    """
    family, packed, length = _subnet(address)
    flags = _NO_DETECTION if family == _INET6 else 0
    body = _ADDRESS.pack(family, length, flags, 0, index)
    body += attribute(2, packed) + attribute(1, packed)
    if family == _INET:
        hosts = (1 << (32 - length)) - 1
        broadcast = (int.from_bytes(packed, "big") | hosts).to_bytes(4, "big")
        body += attribute(4, broadcast)
    return Request(f"add address {address}", NEWADDR, CREATE | REPLACE, body)


def delete_address(index: int, address: str) -> Request:
    """Remove an address; gone is fine."""
    family, packed, length = _subnet(address)
    body = _ADDRESS.pack(family, length, 0, 0, index) + attribute(2, packed)
    return Request(
        f"delete address {address}", DELADDR, 0, body, (errno.EADDRNOTAVAIL, errno.ENODEV)
    )


def default_route(index: int, gateway: str) -> Request:
    """The way out of a container."""
    family, packed = packed_address(gateway)
    body = _route(family, 0) + u32(4, index) + attribute(5, packed)
    return Request(f"add default route by {gateway}", NEWROUTE, CREATE | REPLACE, body)


def new_route(index: int, subnet: str, via: str, source: str) -> Request:
    """A subnet over a link; `via` needs no address of its own on that link."""
    family, packed, length = _subnet(subnet)
    body = _route(family, length, _ONLINK) + attribute(1, packed) + u32(4, index)
    body += attribute(5, packed_address(via)[1]) + attribute(7, packed_address(source)[1])
    return Request(f"add route to {subnet}", NEWROUTE, CREATE | REPLACE, body)


def new_host_route(index: int, address: str) -> Request:
    """One address straight over a link."""
    body = _route(_INET, 32) + attribute(1, socket.inet_aton(address)) + u32(4, index)
    return Request(f"add route to {address}", NEWROUTE, CREATE | REPLACE, body)


def delete_route(index: int, subnet: str) -> Request:
    """Remove the route to a subnet over this link; gone is fine."""
    family, packed, length = _subnet(subnet)
    body = _route(family, length) + attribute(1, packed) + u32(4, index)
    return Request(f"delete route to {subnet}", DELROUTE, 0, body, (errno.ESRCH, errno.ENODEV))


def new_neighbour(index: int, address: str, mac: str) -> Request:
    """A neighbour that needs no asking."""
    family, packed = packed_address(address)
    body = _NEIGHBOUR.pack(family, index, _PERMANENT, 0, 0)
    body += attribute(1, packed) + attribute(2, mac_bytes(mac))
    return Request(f"add neighbour {address}", NEWNEIGH, CREATE | REPLACE, body)


def delete_neighbour(index: int, address: str) -> Request:
    """Remove a neighbour; gone is fine."""
    family, packed = packed_address(address)
    body = _NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(1, packed)
    return Request(
        f"delete neighbour {address}", DELNEIGH, 0, body, (errno.ENOENT, errno.ENODEV)
    )


def new_forwarding(index: int, mac: str, underlay: str) -> Request:
    """Frames for `mac` go to the host `underlay`; where that is "", to this bridge port."""
    state, flags = (_PERMANENT, _SELF) if underlay else (_STATIC, _MASTER)
    body = _NEIGHBOUR.pack(_BRIDGE, index, state, flags, 0) + attribute(2, mac_bytes(mac))
    if underlay:
        body += attribute(1, packed_address(underlay)[1])
    return Request(
        f"forward {mac} to {underlay or 'the port'}", NEWNEIGH, CREATE | REPLACE, body
    )


def delete_forwarding(index: int, mac: str, underlay: str) -> Request:
    """Forget where `mac` is; gone is fine."""
    flags = _SELF if underlay else _MASTER
    body = _NEIGHBOUR.pack(_BRIDGE, index, 0, flags, 0) + attribute(2, mac_bytes(mac))
    return Request(f"forget {mac}", DELNEIGH, 0, body, (errno.ENOENT, errno.ENODEV))


LINKS = (GETLINK, _LINK.pack(0, 0, 0, 0, 0) + u32(29, _SKIP_STATISTICS))
ADDRESSES = (GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))


ROUTES = tuple((GETROUTE, _ROUTE.pack(family, *[0] * 8)) for family in _FAMILIES)


def parse_destination(message: Message) -> str:
    """Where a route of the main table leads; empty for default routes and other tables."""
    _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(message.body)
    found = attributes(message.body, _ROUTE.size)
    return f"{_inet(found[1])}/{length}" if table == _MAIN_TABLE and 1 in found else ""


def link_named(name: str) -> tuple[int, bytes]:
    """What to get for one link."""
    return GETLINK, _LINK.pack(0, 0, 0, 0, 0) + text(3, name) + u32(29, _SKIP_STATISTICS)


def routes_over(index: int) -> list[tuple[int, bytes]]:
    """What to dump for the routes over a link."""
    return [
        (GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + u32(4, index))
        for family in _FAMILIES
    ]


def neighbours_of(index: int) -> list[tuple[int, bytes]]:
    """What to dump for the neighbours on a link."""
    return [
        (GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0) + u32(8, index)) for family in _FAMILIES
    ]


def forwarding_of(index: int) -> tuple[int, bytes]:
    """What to dump for the forwarding entries of a VXLAN device, as such and as a port."""
    return GETNEIGH, _NEIGHBOUR.pack(_BRIDGE, index, 0, 0, 0)


def parse_link(message: Message) -> Link:
    """One link of a dump or an event."""
    _, _, index, flags, _ = _LINK.unpack_from(message.body)
    found = attributes(message.body, _LINK.size)
    about = attributes(found.get(18, b""), 0)
    kind = about.get(1, b"").rstrip(b"\0").decode()
    port = attributes(about.get(5, b""), 0) if about.get(4, b"") == b"bridge\0" else {}
    data = attributes(about.get(2, b""), 0) if kind in ("vxlan", "bridge") else {}
    vxlan = data if kind == "vxlan" else {}
    return Link(
        index=index,
        name=found.get(3, b"").rstrip(b"\0").decode(),
        kind=kind,
        up=bool(flags & UP),
        mtu=_number(found.get(4)),
        mac=found.get(1, b"").hex(":"),
        master=_number(found.get(10)),
        alias=found.get(20, b"").rstrip(b"\0").decode(errors="replace"),
        flags=PortFlags(
            hairpin=port.get(4) == b"\1",
            learning=port.get(8, b"\1") == b"\1",
            flood=port.get(9, b"\1") == b"\1",
            isolated=port.get(33) == b"\1",
        ),
        filtered=kind == "bridge" and data.get(36) == b"\1",
        vni=_number(vxlan.get(1)),
        port=int.from_bytes(vxlan.get(15, b""), "big"),
        local=socket.inet_ntoa(vxlan[4]) if 4 in vxlan else "",
        proxy=vxlan.get(11) == b"\1",
    )


def parse_address(message: Message) -> Address:
    """One address."""
    _, length, _, _, index = _ADDRESS.unpack_from(message.body)
    found = attributes(message.body, _ADDRESS.size)
    local = found.get(2) or found.get(1)
    return Address(index=index, address=f"{_inet(local)}/{length}")


def parse_route(message: Message) -> FoundRoute | None:
    """One route with a gateway of the main table, None for others."""
    _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(message.body)
    found = attributes(message.body, _ROUTE.size)
    if table != _MAIN_TABLE or 1 not in found or 5 not in found:
        return None
    return FoundRoute(
        index=_number(found.get(4)),
        subnet=f"{_inet(found.get(1))}/{length}",
        via=_inet(found.get(5)),
        source=_inet(found.get(7)),
    )


def parse_host_route(message: Message) -> tuple[int, str] | None:
    """Link and address of a route of the main table to one address straight over a link."""
    _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(message.body)
    found = attributes(message.body, _ROUTE.size)
    if table != _MAIN_TABLE or length != 32 or 5 in found:
        return None
    return _number(found.get(4)), _inet(found.get(1))


def set_alias(index: int, alias: str) -> Request:
    """A remark on a link."""
    return Request(f"set alias of {index}", NEWLINK, 0, _link(index=index) + text(20, alias))


def parse_neighbour(message: Message) -> FoundNeighbour | None:
    """One permanent neighbour, None for those the kernel found itself."""
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(message.body)
    if not state & _PERMANENT:
        return None
    found = attributes(message.body, _NEIGHBOUR.size)
    return FoundNeighbour(
        index=index, address=_inet(found.get(1)), mac=found.get(2, b"").hex(":")
    )


def parse_forwarding(message: Message) -> FoundForwarding | None:
    """One static entry, None for what was learned and for the port's own address."""
    _, index, state, flags, _ = _NEIGHBOUR.unpack_from(message.body)
    found = attributes(message.body, _NEIGHBOUR.size)
    mac = found.get(2, b"").hex(":")
    if flags & _SELF and 1 in found:
        return FoundForwarding(index=index, mac=mac, underlay=_inet(found[1]))
    if not flags & _SELF and state & _STATIC:
        return FoundForwarding(index=index, mac=mac, underlay="")
    return None


def index_in(message: Message) -> int:
    """The link an address, neighbour or link event is about."""
    return int(struct.unpack_from("=i", message.body, 4)[0])


def route_index(message: Message) -> int:
    """The link a route's event is about; 0 where it has several or none."""
    return _number(attributes(message.body, _ROUTE.size).get(4))


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a hardware address."""
    return bytes.fromhex(mac.replace(":", ""))


def packed_address(address: str) -> tuple[int, bytes]:
    """Family and bytes of an address."""
    if ":" in address:
        return _INET6, socket.inet_pton(_INET6, address)
    return _INET, socket.inet_aton(address)


def _subnet(text: str) -> tuple[int, bytes, int]:
    address, _, length = text.partition("/")
    return *packed_address(address), int(length)


def _link(*, index: int = 0, flags: int = 0) -> bytes:
    return _LINK.pack(0, 0, index, flags, flags)


def _route(family: int, length: int, flags: int = 0) -> bytes:
    return _ROUTE.pack(
        family, length, 0, 0, _MAIN_TABLE, _PROTOCOL_STATIC, _UNIVERSE, _UNICAST, flags
    )


def _number(value: bytes | None) -> int:
    return int(struct.unpack("=I", value)[0]) if value else 0


def _inet(value: bytes | None) -> str:
    if not value:
        return ""
    return socket.inet_ntop(_INET if len(value) == 4 else _INET6, value)
