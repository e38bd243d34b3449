"""What rtnetlink is told of addresses, routes, neighbours and forwarding entries.

Pure bytes, no sockets: `netlink.Channel` carries them.
"""

import errno
import socket

from agent.network.netlink import CREATE, REPLACE, Request, attribute, u32
from agent.network.rtnetlink_format import (
    ADDRESS,
    AF_BRIDGE,
    AF_INET,
    AF_INET6,
    DELADDR,
    DELNEIGH,
    DELROUTE,
    MAIN_TABLE,
    MASTER,
    NEIGHBOUR,
    NEWADDR,
    NEWNEIGH,
    NEWROUTE,
    PERMANENT,
    ROUTE,
    SELF,
    STATIC,
    mac_bytes,
    packed_address,
)

_PROTOCOL_STATIC, _UNIVERSE, _UNICAST, _ONLINK = 4, 0, 1, 4
_NO_DETECTION = 0x2


def new_address(index: int, address: str) -> Request:
    """An address with prefix length, its broadcast address and (by the kernel) its route.

    IPv6: no other host has it, so nothing is asked before it is used.
    """
    family, packed, length = _subnet(address)
    flags = _NO_DETECTION if family == AF_INET6 else 0
    body = ADDRESS.pack(family, length, flags, 0, index)
    body += attribute(2, packed) + attribute(1, packed)
    if family == AF_INET:
        hosts = (1 << (32 - length)) - 1
        broadcast = (int.from_bytes(packed, "big") | hosts).to_bytes(4, "big")
        body += attribute(4, broadcast)
    return Request(f"add address {address}", NEWADDR, CREATE | REPLACE, body)


def delete_address(index: int, address: str) -> Request:
    """Remove an address; gone is fine."""
    family, packed, length = _subnet(address)
    body = ADDRESS.pack(family, length, 0, 0, index) + attribute(2, packed)
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
    body = _route(AF_INET, 32) + attribute(1, socket.inet_aton(address)) + u32(4, index)
    return Request(f"add route to {address}", NEWROUTE, CREATE | REPLACE, body)


def delete_route(index: int, subnet: str) -> Request:
    """Remove the route to a subnet over this link; gone is fine."""
    family, packed, length = _subnet(subnet)
    body = _route(family, length) + attribute(1, packed) + u32(4, index)
    return Request(f"delete route to {subnet}", DELROUTE, 0, body, (errno.ESRCH, errno.ENODEV))


def new_neighbour(index: int, address: str, mac: str) -> Request:
    """A neighbour that needs no asking."""
    family, packed = packed_address(address)
    body = NEIGHBOUR.pack(family, index, PERMANENT, 0, 0)
    body += attribute(1, packed) + attribute(2, mac_bytes(mac))
    return Request(f"add neighbour {address}", NEWNEIGH, CREATE | REPLACE, body)


def delete_neighbour(index: int, address: str) -> Request:
    """Remove a neighbour; gone is fine."""
    family, packed = packed_address(address)
    body = NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(1, packed)
    return Request(
        f"delete neighbour {address}", DELNEIGH, 0, body, (errno.ENOENT, errno.ENODEV)
    )


def new_forwarding(index: int, mac: str, underlay: str) -> Request:
    """Frames for `mac` go to the host `underlay`; where that is "", to this bridge port."""
    state, flags = (PERMANENT, SELF) if underlay else (STATIC, MASTER)
    body = NEIGHBOUR.pack(AF_BRIDGE, index, state, flags, 0) + attribute(2, mac_bytes(mac))
    if underlay:
        body += attribute(1, packed_address(underlay)[1])
    return Request(
        f"forward {mac} to {underlay or 'the port'}", NEWNEIGH, CREATE | REPLACE, body
    )


def delete_forwarding(index: int, mac: str, underlay: str) -> Request:
    """Forget where `mac` is; gone is fine."""
    flags = SELF if underlay else MASTER
    body = NEIGHBOUR.pack(AF_BRIDGE, index, 0, flags, 0) + attribute(2, mac_bytes(mac))
    return Request(f"forget {mac}", DELNEIGH, 0, body, (errno.ENOENT, errno.ENODEV))


def _subnet(text: str) -> tuple[int, bytes, int]:
    address, _, length = text.partition("/")
    return *packed_address(address), int(length)


def _route(family: int, length: int, flags: int = 0) -> bytes:
    return ROUTE.pack(
        family, length, 0, 0, MAIN_TABLE, _PROTOCOL_STATIC, _UNIVERSE, _UNICAST, flags
    )
