"""The multiplexed output of containers without a terminal, and its content types. Pure."""

import struct
from collections.abc import Mapping
from urllib.parse import quote_plus

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


def details_of(attributes: Mapping[str, str]) -> bytes:
    """`a=b,c=d`, sorted and escaped as in a URL's query, before a line of a log.

    >>> details_of({"b": "2", "a": "x y"})
    b'a=x+y,b=2'
    """
    pairs = sorted(attributes.items())
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in pairs).encode()
