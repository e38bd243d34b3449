"""What goes over the link between hosts, read as anybody on it could."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

_ALL = 3
_HEADERS = 14 + 20


class Seen(msgspec.Struct, kw_only=True):
    """Frames of IPv4 as they were on the link."""

    frames: list[bytes]

    def udp(self, port: int) -> list[bytes]:
        """The datagrams to a port, each from its UDP header on."""
        return [
            frame[_HEADERS:]
            for frame in self.frames
            if frame[12:14] == b"\x08\0"
            and frame[23] == socket.IPPROTO_UDP
            and int.from_bytes(frame[_HEADERS + 2 : _HEADERS + 4], "big") == port
        ]

    def vxlan(self, vni: int, port: int = 4789) -> list[bytes]:
        """The VXLAN datagrams of a network that are in clear."""
        return [each for each in self.udp(port) if each[12:15] == vni.to_bytes(3, "big")]

    def holds(self, text: bytes) -> bool:
        """Whether the text can be read anywhere."""
        return any(text in frame for frame in self.frames)


@contextmanager
def sniffing(sniffer: socket.socket) -> Iterator[Seen]:
    """What a packet socket hears in the block; complete when it is left."""
    seen = Seen(frames=[])
    try:
        _drain(sniffer)
        yield seen
        seen.frames = _drain(sniffer)
    finally:
        sniffer.close()


def _drain(sniffer: socket.socket) -> list[bytes]:
    frames = []
    with suppress(BlockingIOError):
        while True:
            frames.append(sniffer.recv(70000))
    return frames


def packet_socket(device: str) -> socket.socket:
    """Hears a device of the caller's namespace, both ways."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    made.bind((device, _ALL))
    made.setblocking(False)
    return made


def userspace_programs(prefix: str) -> set[int]:
    """Processes of the userspace WireGuard for devices of this prefix, by their arguments."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = each.read_bytes().split(b"\0")
            if words[0].endswith(b"wireguard-go") and any(
                word.startswith(prefix.encode()) for word in words
            ):
                found.add(int(each.parent.name))
    return found


def userspace_sockets(prefix: str) -> list[str]:
    """Sockets of such programs, which all namespaces of the machine share."""
    return [each.name for each in Path("/run/wireguard").glob(f"{prefix}*-w*.sock")]
