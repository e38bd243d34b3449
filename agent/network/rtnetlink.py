"""What rtnetlink is asked and what it answers: dumps and events as values.

Pure bytes, no sockets: `netlink.Channel` carries them. What it is told: `link_requests`,
`route_requests`.
"""

import socket
import struct

import msgspec

from agent.network.netlink import Message, attributes, text, u32
from agent.network.plan import PortFlags
from agent.network.rtnetlink_format import (
    ADDRESS,
    AF_BRIDGE,
    AF_INET,
    AF_INET6,
    GETADDR,
    GETLINK,
    GETNEIGH,
    GETROUTE,
    LINK,
    MAIN_TABLE,
    NEIGHBOUR,
    PERMANENT,
    ROUTE,
    SELF,
    STATIC,
    UP,
)

_FAMILIES = (AF_INET, AF_INET6)
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


LINKS = (GETLINK, LINK.pack(0, 0, 0, 0, 0) + u32(29, _SKIP_STATISTICS))
ADDRESSES = (GETADDR, ADDRESS.pack(0, 0, 0, 0, 0))
ROUTES = tuple((GETROUTE, ROUTE.pack(family, *[0] * 8)) for family in _FAMILIES)


def link_named(name: str) -> tuple[int, bytes]:
    """What to get for one link."""
    return GETLINK, LINK.pack(0, 0, 0, 0, 0) + text(3, name) + u32(29, _SKIP_STATISTICS)


def routes_over(index: int) -> list[tuple[int, bytes]]:
    """What to dump for the routes over a link."""
    return [
        (GETROUTE, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + u32(4, index))
        for family in _FAMILIES
    ]


def neighbours_of(index: int) -> list[tuple[int, bytes]]:
    """What to dump for the neighbours on a link."""
    return [
        (GETNEIGH, NEIGHBOUR.pack(family, 0, 0, 0, 0) + u32(8, index)) for family in _FAMILIES
    ]


def forwarding_of(index: int) -> tuple[int, bytes]:
    """What to dump for the forwarding entries of a VXLAN device, as such and as a port."""
    return GETNEIGH, NEIGHBOUR.pack(AF_BRIDGE, index, 0, 0, 0)


def parse_link(message: Message) -> Link:
    """One link of a dump or an event."""
    _, _, index, flags, _ = LINK.unpack_from(message.body)
    found = attributes(message.body, LINK.size)
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
    _, length, _, _, index = ADDRESS.unpack_from(message.body)
    found = attributes(message.body, ADDRESS.size)
    local = found.get(2) or found.get(1)
    return Address(index=index, address=f"{_inet(local)}/{length}")


def parse_route(message: Message) -> FoundRoute | None:
    """One route with a gateway of the main table, None for others."""
    _, length, _, _, table, _, _, _, _ = ROUTE.unpack_from(message.body)
    found = attributes(message.body, ROUTE.size)
    if table != MAIN_TABLE or 1 not in found or 5 not in found:
        return None
    return FoundRoute(
        index=_number(found.get(4)),
        subnet=f"{_inet(found.get(1))}/{length}",
        via=_inet(found.get(5)),
        source=_inet(found.get(7)),
    )


def parse_destination(message: Message) -> str:
    """Where a route of the main table leads; empty for default routes and other tables."""
    _, length, _, _, table, _, _, _, _ = ROUTE.unpack_from(message.body)
    found = attributes(message.body, ROUTE.size)
    return f"{_inet(found[1])}/{length}" if table == MAIN_TABLE and 1 in found else ""


def parse_host_route(message: Message) -> tuple[int, str] | None:
    """Link and address of a route of the main table to one address straight over a link."""
    _, length, _, _, table, _, _, _, _ = ROUTE.unpack_from(message.body)
    found = attributes(message.body, ROUTE.size)
    if table != MAIN_TABLE or length != 32 or 5 in found:
        return None
    return _number(found.get(4)), _inet(found.get(1))


def parse_neighbour(message: Message) -> FoundNeighbour | None:
    """One permanent neighbour, None for those the kernel found itself."""
    _, index, state, _, _ = NEIGHBOUR.unpack_from(message.body)
    if not state & PERMANENT:
        return None
    found = attributes(message.body, NEIGHBOUR.size)
    return FoundNeighbour(
        index=index, address=_inet(found.get(1)), mac=found.get(2, b"").hex(":")
    )


def parse_forwarding(message: Message) -> FoundForwarding | None:
    """One static entry, None for what was learned and for the port's own address."""
    _, index, state, flags, _ = NEIGHBOUR.unpack_from(message.body)
    found = attributes(message.body, NEIGHBOUR.size)
    mac = found.get(2, b"").hex(":")
    if flags & SELF and 1 in found:
        return FoundForwarding(index=index, mac=mac, underlay=_inet(found[1]))
    if not flags & SELF and state & STATIC:
        return FoundForwarding(index=index, mac=mac, underlay="")
    return None


def index_in(message: Message) -> int:
    """The link an address, neighbour or link event is about."""
    return int(struct.unpack_from("=i", message.body, 4)[0])


def route_index(message: Message) -> int:
    """The link a route's event is about; 0 where it has several or none."""
    return _number(attributes(message.body, ROUTE.size).get(4))


def _number(value: bytes | None) -> int:
    return int(struct.unpack("=I", value)[0]) if value else 0


def _inet(value: bytes | None) -> str:
    if not value:
        return ""
    return socket.inet_ntop(AF_INET if len(value) == 4 else AF_INET6, value)
