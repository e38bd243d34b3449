"""What rtnetlink is told of links: bridges, VXLAN devices, pairs, children, their settings.

Pure bytes, no sockets: `netlink.Channel` carries them.
"""

import errno
import socket
import struct
from collections.abc import Mapping

import msgspec

from agent.network.netlink import CREATE, EXCL, Request, attribute, nested, text, u32
from agent.network.plan import Bridge, PortFlags, Vxlan
from agent.network.rtnetlink import Link
from agent.network.rtnetlink_format import (
    AF_INET6,
    DELLINK,
    NEWLINK,
    UP,
    link_header,
    mac_bytes,
)


def new_bridge(bridge: Bridge) -> Request:
    """A bridge, up, without snooping (which loses multicast on idle bridges)."""
    filtered = b"\1" if bridge.filtered else b"\0"
    data = nested(2, attribute(23, b"\0"), attribute(36, filtered), attribute(37, filtered))
    body = link_header() + text(3, bridge.name) + u32(4, bridge.mtu)
    body += attribute(1, mac_bytes(bridge.mac)) + nested(18, text(1, "bridge"), data)
    return Request(f"create bridge {bridge.name}", NEWLINK, CREATE | EXCL, body)


def set_filtered(name: str, *, filtered: bool) -> Request:
    """Whether a bridge shows its frames to the host's rules, where the host can do so."""
    value = b"\1" if filtered else b"\0"
    data = nested(2, attribute(36, value), attribute(37, value))
    body = link_header() + text(3, name) + nested(18, text(1, "bridge"), data)
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
    body = link_header() + text(3, vxlan.name) + u32(4, vxlan.mtu)
    body += attribute(1, mac_bytes(vxlan.mac)) + nested(18, text(1, "vxlan"), data)
    return Request(f"create VXLAN device {vxlan.name}", NEWLINK, CREATE | EXCL, body)


def without_own_address(name: str) -> Request:
    """No link-local IPv6 address by itself; to be said before the link is up."""
    body = link_header() + text(3, name) + nested(26, nested(AF_INET6, attribute(8, b"\1")))
    return Request(
        f"no address of its own on {name}", NEWLINK, 0, body, (errno.EAFNOSUPPORT, errno.EINVAL)
    )


def set_up(name: str) -> Request:
    """Set a link up by its name."""
    body = link_header(flags=UP) + text(3, name)
    return Request(f"set {name} up", NEWLINK, 0, body)


def new_veth(name: str, bridge: Link, inside: str, mac: str, netns: int) -> Request:
    """A pair: `name` on the bridge and up, `inside` with `mac` in the namespace `netns`."""
    mtu = u32(4, bridge.mtu)
    peer = link_header() + text(3, inside) + mtu + attribute(1, mac_bytes(mac)) + u32(28, netns)
    body = link_header(flags=UP) + text(3, name) + mtu + u32(10, bridge.index)
    body += nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
    return Request(f"create link {name}", NEWLINK, CREATE | EXCL, body)


def new_device(name: str, kind: str, mtu: int) -> Request:
    """A device of a kind that needs nothing else to be made, up."""
    body = link_header(flags=UP) + text(3, name) + u32(4, mtu) + nested(18, text(1, kind))
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
    body = link_header() + text(3, name) + u32(5, child.parent.index) + address
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
    body = link_header(index=index, flags=UP)
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
    body = link_header() + text(3, name) + slave
    return Request(f"set flags of {name}", NEWLINK, 0, body, (errno.ENODEV,))


def delete_link(name: str) -> Request:
    """Delete by name; gone is fine."""
    return Request(
        f"delete link {name}", DELLINK, 0, link_header() + text(3, name), (errno.ENODEV,)
    )


def set_alias(index: int, alias: str) -> Request:
    """A remark on a link."""
    return Request(
        f"set alias of {index}", NEWLINK, 0, link_header(index=index) + text(20, alias)
    )
