"""Requests that one of our servers passes on to another, and their client's bytes on the way.

A connection over TLS cannot be half-closed from asyncio, yet `docker exec -i` ends its input
and reads on. So on a hop the client's bytes of a taken-over connection travel in pieces, each
after its length, and an empty piece is the end of the input. Pure.
"""

import struct
from collections.abc import Iterator

HOP = "X-Shoal-Hop"
"""On every request that a manager passes on to an agent: it must not be passed on again."""

_LENGTH = struct.Struct(">I")


def piece(data: bytes) -> bytes:
    """Bytes as they travel; nothing is the end of the input."""
    return _LENGTH.pack(len(data)) + data


class Unpacker:
    """Takes apart what `piece` made, however it was cut on the way."""

    def __init__(self) -> None:
        self._held = b""
        self._left = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes that are there; an empty one is the end of the input."""
        self._held += data
        while self._held:
            if self._left:
                taken, self._held = self._held[: self._left], self._held[self._left :]
                self._left -= len(taken)
                yield taken
                continue
            if len(self._held) < _LENGTH.size:
                return
            (self._left,) = _LENGTH.unpack_from(self._held)
            self._held = self._held[_LENGTH.size :]
            if not self._left:
                yield b""
