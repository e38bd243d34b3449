"""Asks a host for an echo (ICMP), without any program: whether packets of a size pass."""

import os
import select
import socket
import struct
import time

_REQUEST, _REPLY = 8, 0
_HEADER = struct.Struct("!BBHHH")
_MTU_DISCOVER, _NEVER_FRAGMENT = 10, 2
SECONDS = 1.0


def answers(address: str, size: int) -> bool:
    """Whether the host answers an echo of an IPv4 packet of that many bytes, in one piece.

    Raises:
        PermissionError: only root may ask.
    """
    mark = os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as asking:
        asking.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _NEVER_FRAGMENT)
        try:
            asking.sendto(_request(mark, size - 20 - _HEADER.size), (address, 0))
        except PermissionError:
            raise
        except OSError:  # no way there, or none for packets of that size
            return False
        return _replied(asking, address, mark)


def _replied(asking: socket.socket, address: str, mark: int) -> bool:
    until = time.monotonic() + SECONDS
    while (left := until - time.monotonic()) > 0:
        if not select.select([asking], [], [], left)[0]:
            break
        packet, (source, _) = asking.recvfrom(65535)
        icmp = (packet[0] & 0xF) * 4
        kind, _, _, found, _ = _HEADER.unpack_from(packet, icmp)
        if (kind, found, source) == (_REPLY, mark, address):
            return True
    return False


def _request(mark: int, room: int) -> bytes:
    data = b"\0" * max(0, room)
    header = _HEADER.pack(_REQUEST, 0, 0, mark, 1)
    return _HEADER.pack(_REQUEST, 0, _checksum(header + data), mark, 1) + data


def _checksum(data: bytes) -> int:
    """That of the internet protocols (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
