"""The multiplexed output of containers without a terminal, and its content types. Pure."""

import struct

from shoal.common.engine_http.versions import Version

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"

_HEADER = struct.Struct(">BxxxL")


def frame(stream: int, payload: bytes) -> bytes:
    """One frame: stream, three zero bytes, length, payload."""
    return _HEADER.pack(stream, len(payload)) + payload


def content_type(version: Version, *, terminal: bool) -> str:
    """What the stream is called; before 1.42 both forms had the raw one's name."""
    return MULTIPLEXED if not terminal and version >= (1, 42) else RAW
