"""What rtnetlink is told and what it answers: encoders of changes, decoders of dumps.

Pure bytes, no sockets: `netlink.Channel` carries them. Constants are those of
`linux/rtnetlink.h`, `if_link.h` and `neighbour.h`.
"""

import errno
import socket
import struct

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
from agent.network.plan import Bridge, Vxlan

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
GROUP_LINK, GROUP_NEIGH, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE = 1, 3, 5, 7

UP = 0x1
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_INET, _BRIDGE = socket.AF_INET, 7
_MAIN_TABLE, _PROTOCOL_STATIC, _UNIVERSE, _UNICAST, _ONLINK = 254, 4, 0, 1, 4
_PERMANENT, _SELF = 0x80, 0x2
_SKIP_STATISTICS = 8


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link as the kernel has it; the VXLAN fields are 0 or "" for other kinds."""

    index: int
    name: str
    kind: str
    up: bool
    mtu: int
    mac: str
    master: int
    hairpin: bool = False
    vni: int = 0
    port: int = 0
    local: str = ""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An IPv4 address on a link."""

    index: int
    address: str
    prefix_length: int


class FoundRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the main table over a link."""

    index: int
    subnet: str
    via: str
    source: str


class FoundNeighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A permanent neighbour (address to MAC) or VXLAN forwarding entry (MAC to host)."""

    index: int
    address: str
    mac: str


def new_bridge(bridge: Bridge) -> Request:
    """A bridge, up, without snooping (which loses multicast on idle bridges)."""
    data = nested(2, attribute(23, b"\0"))
    body = _link(flags=UP) + text(3, bridge.name) + u32(4, bridge.mtu)
    body += attribute(1, mac_bytes(bridge.mac)) + nested(18, text(1, "bridge"), data)
    return Request(f"create bridge {bridge.name}", NEWLINK, CREATE | EXCL, body)


def new_vxlan(vxlan: Vxlan) -> Request:
    """A VXLAN device that learns nothing, up."""
    data = nested(
        2,
        u32(1, vxlan.vni),
        attribute(4, socket.inet_aton(vxlan.local)),
        attribute(7, b"\0"),
        attribute(15, struct.pack(">H", vxlan.port)),
    )
    body = _link(flags=UP) + text(3, vxlan.name) + u32(4, vxlan.mtu)
    body += attribute(1, mac_bytes(vxlan.mac)) + nested(18, text(1, "vxlan"), data)
    return Request(f"create VXLAN device {vxlan.name}", NEWLINK, CREATE | EXCL, body)


def new_veth(name: str, bridge: int, mtu: int, mac: str, netns: int) -> Request:
    """A pair: `name` on the bridge and up, `eth0` with `mac` in the namespace `netns`."""
    peer = (
        _link() + text(3, "eth0") + u32(4, mtu) + attribute(1, mac_bytes(mac)) + u32(28, netns)
    )
    body = _link(flags=UP) + text(3, name) + u32(4, mtu) + u32(10, bridge)
    body += nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
    return Request(f"create link {name}", NEWLINK, CREATE | EXCL, body)


def new_device(name: str, kind: str, mtu: int) -> Request:
    """A device of a kind that needs nothing else to be made, up."""
    body = _link(flags=UP) + text(3, name) + u32(4, mtu) + nested(18, text(1, kind))
    return Request(f"create {kind} device {name}", NEWLINK, CREATE | EXCL, body)


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


def set_hairpin(name: str) -> Request:
    """Let a bridge send a frame back where it came from.

    With bridge netfilter on (the default where the module is loaded) a container that reaches
    itself by a published port needs that: the frame is then rewritten on the bridge.
    """
    slave = nested(18, text(4, "bridge"), nested(5, attribute(4, b"\1")))
    body = _link() + text(3, name) + slave
    return Request(f"set hairpin on {name}", NEWLINK, 0, body, (errno.ENODEV,))


def delete_link(name: str) -> Request:
    """Delete by name; gone is fine."""
    return Request(f"delete link {name}", DELLINK, 0, _link() + text(3, name), (errno.ENODEV,))


def new_address(index: int, address: str, prefix_length: int) -> Request:
    """An address, its broadcast address and (by the kernel) its route."""
    packed = socket.inet_aton(address)
    hosts = (1 << (32 - prefix_length)) - 1
    broadcast = (int.from_bytes(packed, "big") | hosts).to_bytes(4, "big")
    body = _ADDRESS.pack(_INET, prefix_length, 0, 0, index)
    body += attribute(2, packed) + attribute(1, packed) + attribute(4, broadcast)
    return Request(f"add address {address}", NEWADDR, CREATE | REPLACE, body)


def delete_address(index: int, address: str, prefix_length: int) -> Request:
    """Remove an address; gone is fine."""
    body = _ADDRESS.pack(_INET, prefix_length, 0, 0, index)
    body += attribute(2, socket.inet_aton(address))
    return Request(
        f"delete address {address}", DELADDR, 0, body, (errno.EADDRNOTAVAIL, errno.ENODEV)
    )


def default_route(index: int, gateway: str) -> Request:
    """The way out of a container."""
    body = _route(0) + u32(4, index) + attribute(5, socket.inet_aton(gateway))
    return Request(f"add default route by {gateway}", NEWROUTE, CREATE | REPLACE, body)


def new_route(index: int, subnet: str, via: str, source: str) -> Request:
    """A subnet over a link; `via` needs no address of its own on that link."""
    network, _, length = subnet.partition("/")
    body = _route(int(length), _ONLINK) + attribute(1, socket.inet_aton(network))
    body += u32(4, index) + attribute(5, socket.inet_aton(via))
    body += attribute(7, socket.inet_aton(source))
    return Request(f"add route to {subnet}", NEWROUTE, CREATE | REPLACE, body)


def new_host_route(index: int, address: str) -> Request:
    """One address straight over a link."""
    body = _route(32) + attribute(1, socket.inet_aton(address)) + u32(4, index)
    return Request(f"add route to {address}", NEWROUTE, CREATE | REPLACE, body)


def delete_route(index: int, subnet: str) -> Request:
    """Remove the route to a subnet over this link; gone is fine."""
    network, _, length = subnet.partition("/")
    body = _route(int(length)) + attribute(1, socket.inet_aton(network)) + u32(4, index)
    return Request(f"delete route to {subnet}", DELROUTE, 0, body, (errno.ESRCH, errno.ENODEV))


def new_neighbour(index: int, address: str, mac: str) -> Request:
    """A neighbour that needs no asking."""
    body = _NEIGHBOUR.pack(_INET, index, _PERMANENT, 0, 0)
    body += attribute(1, socket.inet_aton(address)) + attribute(2, mac_bytes(mac))
    return Request(f"add neighbour {address}", NEWNEIGH, CREATE | REPLACE, body)


def delete_neighbour(index: int, address: str) -> Request:
    """Remove a neighbour; gone is fine."""
    body = _NEIGHBOUR.pack(_INET, index, 0, 0, 0) + attribute(1, socket.inet_aton(address))
    return Request(
        f"delete neighbour {address}", DELNEIGH, 0, body, (errno.ENOENT, errno.ENODEV)
    )


def new_forwarding(index: int, mac: str, underlay: str) -> Request:
    """Frames for `mac` go to the host `underlay`."""
    body = _NEIGHBOUR.pack(_BRIDGE, index, _PERMANENT, _SELF, 0)
    body += attribute(2, mac_bytes(mac)) + attribute(1, socket.inet_aton(underlay))
    return Request(f"forward {mac} to {underlay}", NEWNEIGH, CREATE | REPLACE, body)


def delete_forwarding(index: int, mac: str) -> Request:
    """Forget which host `mac` is behind; gone is fine."""
    body = _NEIGHBOUR.pack(_BRIDGE, index, 0, _SELF, 0) + attribute(2, mac_bytes(mac))
    return Request(f"forget {mac}", DELNEIGH, 0, body, (errno.ENOENT, errno.ENODEV))


LINKS = (GETLINK, _LINK.pack(0, 0, 0, 0, 0) + u32(29, _SKIP_STATISTICS))
ADDRESSES = (GETADDR, _ADDRESS.pack(_INET, 0, 0, 0, 0))


def link_named(name: str) -> tuple[int, bytes]:
    """What to get for one link."""
    return GETLINK, _LINK.pack(0, 0, 0, 0, 0) + text(3, name) + u32(29, _SKIP_STATISTICS)


def routes_over(index: int) -> tuple[int, bytes]:
    """What to dump for the routes over a link."""
    return GETROUTE, _ROUTE.pack(_INET, 0, 0, 0, 0, 0, 0, 0, 0) + u32(4, index)


def neighbours_of(index: int) -> tuple[int, bytes]:
    """What to dump for the neighbours on a link."""
    return GETNEIGH, _NEIGHBOUR.pack(_INET, 0, 0, 0, 0) + u32(8, index)


def forwarding_of(index: int) -> tuple[int, bytes]:
    """What to dump for the forwarding entries of a VXLAN device."""
    return GETNEIGH, _NEIGHBOUR.pack(_BRIDGE, index, 0, 0, 0)


def parse_link(message: Message) -> Link:
    """One link of a dump or an event."""
    _, _, index, flags, _ = _LINK.unpack_from(message.body)
    found = attributes(message.body, _LINK.size)
    about = attributes(found.get(18, b""), 0)
    kind = about.get(1, b"").rstrip(b"\0").decode()
    port = attributes(about.get(5, b""), 0) if about.get(4, b"") == b"bridge\0" else {}
    data = attributes(about.get(2, b""), 0) if kind == "vxlan" else {}
    return Link(
        index=index,
        name=found.get(3, b"").rstrip(b"\0").decode(),
        kind=kind,
        up=bool(flags & UP),
        mtu=_number(found.get(4)),
        mac=found.get(1, b"").hex(":"),
        master=_number(found.get(10)),
        hairpin=port.get(4) == b"\1",
        vni=_number(data.get(1)),
        port=int.from_bytes(data.get(15, b""), "big"),
        local=socket.inet_ntoa(data[4]) if 4 in data else "",
    )


def parse_address(message: Message) -> Address:
    """One IPv4 address."""
    _, length, _, _, index = _ADDRESS.unpack_from(message.body)
    found = attributes(message.body, _ADDRESS.size)
    local = found.get(2) or found.get(1) or bytes(4)
    return Address(index=index, address=socket.inet_ntoa(local), prefix_length=length)


def parse_route(message: Message) -> FoundRoute | None:
    """One IPv4 route of the main table, None for others."""
    _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(message.body)
    found = attributes(message.body, _ROUTE.size)
    if table != _MAIN_TABLE:
        return None
    return FoundRoute(
        index=_number(found.get(4)),
        subnet=f"{_inet(found.get(1))}/{length}",
        via=_inet(found.get(5)),
        source=_inet(found.get(7)),
    )


def parse_neighbour(message: Message) -> FoundNeighbour | None:
    """One permanent neighbour or forwarding entry, None for those the kernel found itself."""
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(message.body)
    found = attributes(message.body, _NEIGHBOUR.size)
    if not state & _PERMANENT or len(found.get(1, b"")) != 4:
        return None
    mac = found.get(2, b"").hex(":")
    return FoundNeighbour(index=index, address=_inet(found.get(1)), mac=mac)


def index_in(message: Message) -> int:
    """The link an address, neighbour or link event is about."""
    return int(struct.unpack_from("=i", message.body, 4)[0])


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a hardware address."""
    return bytes.fromhex(mac.replace(":", ""))


def _link(*, index: int = 0, flags: int = 0) -> bytes:
    return _LINK.pack(0, 0, index, flags, flags)


def _route(length: int, flags: int = 0) -> bytes:
    return _ROUTE.pack(
        _INET, length, 0, 0, _MAIN_TABLE, _PROTOCOL_STATIC, _UNIVERSE, _UNICAST, flags
    )


def _number(value: bytes | None) -> int:
    return int(struct.unpack("=I", value)[0]) if value else 0


def _inet(value: bytes | None) -> str:
    return socket.inet_ntoa(value) if value else "0.0.0.0"  # noqa: S104 - no address at all
