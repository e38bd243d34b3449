"""The shape of rtnetlink's messages: numbers, headers, and what goes into them.

Constants are those of `linux/rtnetlink.h`, `if_link.h` and `neighbour.h`. Pure bytes; used by
`link_requests`, `route_requests` and `rtnetlink`.
"""

import socket
import struct

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
GROUP_LINK, GROUP_NEIGH = 1, 3
GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE = 5, 7, 9, 11

UP = 0x1
LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBi")
ROUTE = struct.Struct("=BBBBBBBBI")
NEIGHBOUR = struct.Struct("=BxxxiHBB")
AF_INET, AF_INET6, AF_BRIDGE = socket.AF_INET, socket.AF_INET6, 7
MAIN_TABLE = 254
PERMANENT, STATIC, SELF, MASTER = 0x80, 0x40, 0x2, 0x4


def link_header(*, index: int = 0, flags: int = 0) -> bytes:
    """Of a message about a link; `flags` are set."""
    return LINK.pack(0, 0, index, flags, flags)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a hardware address."""
    return bytes.fromhex(mac.replace(":", ""))


def packed_address(address: str) -> tuple[int, bytes]:
    """Family and bytes of an address."""
    if ":" in address:
        return AF_INET6, socket.inet_pton(AF_INET6, address)
    return AF_INET, socket.inet_aton(address)
