"""Log lines on their way from an agent to a client: taken apart, marked, put together. Pure."""

import struct
from collections.abc import Iterator

from shoal.common.engine_http.frames import STDOUT, frame

_HEADER = struct.Struct(">BxxxL")


class Splitter:
    """Takes a stream of bytes apart into (stream, line with its time stamp).

    With a terminal the agent sends bare lines, all of them of the standard output; otherwise
    each frame is a line or a piece of one.
    """

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._held = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """What is complete with these bytes."""
        self._held += data
        if self._terminal:
            *lines, self._held = self._held.split(b"\n")
            yield from ((STDOUT, line + b"\n") for line in lines)
            return
        while len(self._held) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(self._held)
            end = _HEADER.size + length
            if len(self._held) < end:
                return
            yield stream, self._held[_HEADER.size : end]
            self._held = self._held[end:]

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """A last line without its end."""
        if self._terminal and self._held:
            yield STDOUT, self._held
        self._held = b""


def split_stamp(line: bytes) -> tuple[bytes, bytes]:
    """A line's time stamp, and the line."""
    stamp, _, text = line.partition(b" ")
    return stamp, text


def rendered(stream: int, prefixes: tuple[bytes, ...], text: bytes, *, terminal: bool) -> bytes:
    """A line as the client gets it."""
    whole = b"".join(prefix + b" " for prefix in prefixes) + text
    return whole if terminal else frame(stream, whole)
