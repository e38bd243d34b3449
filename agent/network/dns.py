"""DNS messages, as far as a resolver for containers has to understand them. Pure.

Queries are read in full; answers are written from addresses, pointers and services. What other
servers answer is passed on unread but for its header and question (`upstream`). `names` decides
what the answer is.
"""

import struct
from collections.abc import Sequence

import msgspec

A, PTR, AAAA, SRV, OPT, ANY = 1, 12, 28, 33, 41, 255
IN = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_NAME, NOT_IMPLEMENTED = 0, 1, 2, 3, 4
REFUSED = 5
_BAD_VERSION = 16

RESOLVER = "127.0.0.11"
"""Where names are answered inside a container, as with Docker."""

TTL = 1
"""Seconds. A name must not be older than the task's state, and a query costs 0.1 ms here, so
keeping answers gains nothing; 0 would forbid some resolvers to use the answer at all."""
LEAST_UDP, MOST_UDP = 512, 4096
MOST_TCP = 65535

_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION = 0x8000, 0x0400, 0x0200, 0x0080
_KEPT = 0x0110
"""Of a query's flags in its answer: recursion desired, checking disabled."""
_OPCODE = 0x7800
_TO_QUESTION = b"\xc0\x0c"
_OPT_RECORD = b"\0" + _RECORD.pack(OPT, MOST_UDP, 0, 0)
_BAD_VERSION_RECORD = b"\0" + _RECORD.pack(OPT, MOST_UDP, (_BAD_VERSION >> 4) << 24, 0)


class Malformed(Exception):
    """A message that cannot be read."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A query without its id.

    Attributes:
        name: in lower case, without the last dot.
        end: of the question, in bytes from the message's beginning.
        size: the largest UDP answer that the asker takes; 0 without EDNS.
    """

    name: str
    type: int
    kind: int
    flags: int
    question: bytes
    size: int = 0
    version: int = 0

    @property
    def most(self) -> int:
        """The largest UDP answer."""
        return min(max(self.size, LEAST_UDP), MOST_UDP)


class Service(msgspec.Struct, frozen=True, gc=False):
    """Where a named port is: port, name of the host, its addresses."""

    port: int
    target: str
    addresses: tuple[bytes, ...] = ()


def parse(message: bytes) -> Query:
    """Read a query.

    Raises:
        Malformed: not one question in a query of whole records.
    """
    try:
        return _parse(message)
    except (struct.error, IndexError) as error:
        raise Malformed("it ends too early") from error


def _parse(message: bytes) -> Query:
    _, flags, questions, answers, authorities, more = _HEADER.unpack_from(message)
    if flags & _RESPONSE or questions != 1:
        raise Malformed("not a query of one question")
    name, offset = _read_name(message, 12)
    kind, group = struct.unpack_from(">HH", message, offset)
    end = offset + 4
    size = version = 0
    offset = end
    for _ in range(answers + authorities + more):
        offset = _skip_name(message, offset)
        record, payload, extended, length = _RECORD.unpack_from(message, offset)
        offset += _RECORD.size + length
        if offset > len(message):
            raise Malformed("a record ends too early")
        if record == OPT:
            size, version = payload, extended >> 16 & 0xFF
    return Query(
        name=name,
        type=kind,
        kind=group,
        flags=flags,
        question=message[12:end],
        size=size,
        version=version,
    )


def _read_name(message: bytes, offset: int) -> tuple[str, int]:
    """The name of a question; nothing can be pointed at before it."""
    labels: list[bytes] = []
    start = offset
    while length := message[offset]:
        if length > 63:
            raise Malformed("a label of the question is too long")
        labels.append(message[offset + 1 : offset + 1 + length].replace(b".", b"\\."))
        offset += 1 + length
    if offset - start > 254:
        raise Malformed("the name is too long")
    return b".".join(labels).lower().decode("latin-1"), offset + 1


def _skip_name(message: bytes, offset: int) -> int:
    while length := message[offset]:
        if length >= 0xC0:
            return offset + 2
        offset += 1 + length
    return offset + 1


def address_of(name: str) -> bytes | None:
    """The address that a name for PTR stands for; None if it is none."""
    labels = name.split(".")
    try:
        if name.endswith(".in-addr.arpa") and len(labels) == 6:
            return bytes(int(label) for label in labels[3::-1])
        if name.endswith(".ip6.arpa") and len(labels) == 34:
            return bytes.fromhex("".join(reversed(labels[:32])))
    except ValueError:
        return None
    return None


def addresses(query: Query, identity: bytes, found: Sequence[bytes], most: int) -> bytes:
    """An answer of these addresses, as many as fit; none says that there are none."""
    records = [_TO_QUESTION + _address(each) for each in found]
    return _answer(query, identity, records, (), most)


def pointer(query: Query, identity: bytes, target: str, most: int) -> bytes:
    """An answer that names a host."""
    name = encode_name(target)
    record = _TO_QUESTION + _RECORD.pack(PTR, IN, TTL, len(name)) + name
    return _answer(query, identity, [record], (), most)


def services(query: Query, identity: bytes, found: Sequence[Service], most: int) -> bytes:
    """An answer of named ports, with the hosts' addresses if they fit too."""
    records: list[bytes] = []
    more: list[bytes] = []
    for each in found:
        name = encode_name(each.target)
        data = struct.pack(">HHH", 0, 1, each.port) + name
        records.append(_TO_QUESTION + _RECORD.pack(SRV, IN, TTL, len(data)) + data)
        more += [name + _address(address) for address in each.addresses]
    return _answer(query, identity, records, more, most)


def failure(query: Query, identity: bytes, code: int) -> bytes:
    """An answer without records that says why."""
    return _answer(query, identity, [], (), MOST_TCP, code)


def bad_version(query: Query, identity: bytes) -> bytes:
    """The answer to a later version of EDNS than there is."""
    head = _HEADER.pack(0, _flags(query, NO_ERROR), 1, 0, 0, 1)
    return identity + head[2:] + query.question + _BAD_VERSION_RECORD


def malformed(message: bytes) -> bytes | None:
    """The answer to what cannot be read; None if even that is out of place."""
    if len(message) < 12 or message[2] & 0x80:
        return None
    return message[:2] + struct.pack(">5H", _RESPONSE | FORMAT_ERROR, 0, 0, 0, 0)


def _answer(
    query: Query,
    identity: bytes,
    records: Sequence[bytes],
    more: Sequence[bytes],
    most: int,
    code: int = NO_ERROR,
) -> bytes:
    ending = _OPT_RECORD if query.size else b""
    room = most - 12 - len(query.question) - len(ending)
    body = b"".join(records)
    flags = _flags(query, code)
    count = len(records)
    if len(body) > room:
        flags |= _TRUNCATED
        while len(body) > room:
            count -= 1
            body = b"".join(records[:count])
        more = ()
    extra = b"".join(more)
    if len(body) + len(extra) > room:
        extra, more = b"", ()
    head = _HEADER.pack(0, flags, 1, count, 0, len(more) + bool(ending))
    return identity + head[2:] + query.question + body + extra + ending


def _flags(query: Query, code: int) -> int:
    return _RESPONSE | _AUTHORITATIVE | _RECURSION | query.flags & (_KEPT | _OPCODE) | code


def _address(address: bytes) -> bytes:
    kind = A if len(address) == 4 else AAAA
    return _RECORD.pack(kind, IN, TTL, len(address)) + address


def is_name(name: str) -> bool:
    """Whether `encode_name` takes it."""
    raw = name.encode()
    return len(raw) < 254 and all(0 < len(label) < 64 for label in raw.split(b"."))


def encode_name(name: str) -> bytes:
    """A name as labels; only for what is a name."""
    labels = name.encode().split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def opcode(query: Query) -> int:
    """0 for a plain query."""
    return (query.flags & _OPCODE) >> 11


def answers(response: bytes, query: Query, identity: bytes) -> bool:
    """Whether a message is the answer to a query that was sent under this id."""
    question = response[12 : 12 + len(query.question)]
    return (
        response[:2] == identity
        and len(response) >= 12
        and bool(response[2] & 0x80)
        and (question.lower() == query.question.lower() or not int.from_bytes(response[4:6]))
    )


def code_of(response: bytes) -> int:
    """The answer's code."""
    return response[3] & 0x0F


def is_truncated(response: bytes) -> bool:
    """Whether the answer has more to say than it could."""
    return bool(response[2] & 0x02)


def shortened(response: bytes, query: Query) -> bytes:
    """A foreign answer that is too long for UDP, without its records, marked as truncated."""
    flags = int.from_bytes(response[2:4]) | _TRUNCATED
    ending = _OPT_RECORD if query.size else b""
    head = _HEADER.pack(0, flags, 1, 0, 0, bool(ending))
    return response[:2] + head[2:] + query.question + ending
