"""Raw netlink: attributes, batches of changes, dumps, event sockets.

What the kernel wants to hear is in `rtnetlink`; this only carries it. A `Channel` belongs to
the namespace its thread was in when it was made and stays there. One send carries a whole
batch: that is what makes it two orders of magnitude cheaper than a call a change.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

import msgspec

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

REQUEST, ACK = 0x1, 0x4
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_DUMP = 0x300
_DUMP_INTERRUPTED = 0x10
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _GET_STRICT = 270, 1, 2, 12
_SO_SNDBUFFORCE = 32
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 1 << 18


class Request(msgspec.Struct, frozen=True):
    """One message: what it is (for errors), its type, flags beside REQUEST, and its body.

    Attributes:
        tolerated: errno values that count as success, e.g. deleting what is gone.
    """

    what: str
    kind: int
    flags: int
    body: bytes
    tolerated: tuple[int, ...] = ()


class Message(msgspec.Struct, frozen=True):
    """A message from the kernel: its type and what follows the header."""

    kind: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    """A number in the machine's own order."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """A string with its end mark."""
    return attribute(kind, value.encode() + b"\0")


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """The attributes from `offset` on, by kind, without the flag for nesting."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class Channel:
    """A netlink socket for requests."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = _open(protocol)
        self._sequence = 0
        self._sendable = 1 << 16

    def apply(self, requests: Sequence[Request]) -> None:
        """Send a batch; every request has been done, or was tolerated, on return.

        Raises:
            OSError: the first refusal; requests after it have been tried too.
        """
        for start in range(0, len(requests), 100):
            self._apply_some(requests[start : start + 100])

    def _apply_some(self, requests: Sequence[Request]) -> None:
        first = self._sequence + 1
        packet = b"".join(self._encode(each, each.flags | ACK) for each in requests)
        self._socket.send(packet)
        refusal: OSError | None = None
        answered = 0
        while answered < len(requests):
            for kind, _, sequence, body in _parse(self._socket.recv(_BUFFER)):
                if kind != _ERROR or not first <= sequence < first + len(requests):
                    continue
                answered += 1
                refusal = refusal or _refusal(requests[sequence - first], body)
        if refusal is not None:
            raise refusal

    def transact(self, begin: Request, requests: Sequence[Request], end: Request) -> None:
        """Send requests in one packet between two marks that make them one transaction.

        Raises:
            OSError: the first refusal; nothing has been done.
        """
        if not requests:
            return
        first = self._sequence + 1
        last = first + len(requests)
        packet = b"".join(
            (
                self._encode(begin, 0),
                *(self._encode(each, each.flags) for each in requests[:-1]),
                self._encode(requests[-1], requests[-1].flags | ACK),
                self._encode(end, 0),
            )
        )
        if len(packet) > self._sendable:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(packet))
            self._sendable = len(packet)
        self._socket.send(packet)
        refusal: OSError | None = None
        while True:
            # Refusals come in order; the answer to the last request, or to the beginning if all
            # was refused as a whole, is the end of them.
            for kind, _, sequence, body in _parse(self._socket.recv(_BUFFER)):
                if kind != _ERROR or not first <= sequence <= last:
                    continue
                asked = begin if sequence == first else requests[sequence - first - 1]
                refusal = refusal or _refusal(asked, body)
                if sequence in (first, last):
                    self._drain()
                    if refusal is not None:
                        raise refusal
                    return

    def _drain(self) -> None:
        """Forget answers that are still there: a commit can fail after its last request."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(_BUFFER, socket.MSG_DONTWAIT)

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """All objects of a kind; repeated while the kernel says that it changed meanwhile."""
        messages, complete = self._dump_once(kind, body)
        for _ in range(9):
            if complete:
                break
            messages, complete = self._dump_once(kind, body)
        return messages

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[Message], bool]:
        request = Request(f"dump of {kind}", kind, 0, body)
        self._socket.send(self._encode(request, _DUMP))
        messages: list[Message] = []
        complete = True
        while True:
            for answer, flags, sequence, payload in _parse(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue
                complete = complete and not flags & _DUMP_INTERRUPTED
                if answer == _DONE:
                    return messages, complete
                if answer == _ERROR and (refusal := _refusal(request, payload)) is not None:
                    raise refusal
                messages.append(Message(answer, payload))

    def get(self, kind: int, body: bytes) -> Message:
        """One object."""
        request = Request(f"get of {kind}", kind, 0, body)
        self._socket.send(self._encode(request, 0))
        while True:
            for answer, _, sequence, payload in _parse(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue
                if answer == _ERROR and (refusal := _refusal(request, payload)) is not None:
                    raise refusal
                return Message(answer, payload)

    def fileno(self) -> int:
        """The socket's descriptor, which tells the namespace."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _encode(self, request: Request, flags: int) -> bytes:
        self._sequence += 1
        length = _HEADER.size + len(request.body)
        header = _HEADER.pack(length, request.kind, flags | REQUEST, self._sequence, 0)
        return header + request.body + b"\0" * (-length % 4)


class Events:
    """A netlink socket that hears of changes."""

    def __init__(self, protocol: int, groups: Sequence[int]) -> None:
        self._socket = _open(protocol)
        self._socket.setblocking(False)
        self.join(groups)

    def join(self, groups: Sequence[int]) -> None:
        """Hear of these too."""
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def leave(self, groups: Sequence[int]) -> None:
        """Hear of these no more."""
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)

    def set_option(self, level: int, option: int, value: bytes) -> None:
        """Set an option of the socket."""
        self._socket.setsockopt(level, option, value)

    def fileno(self) -> int:
        """For waiting until there is something to drain."""
        return self._socket.fileno()

    def drain(self) -> list[Message] | None:
        """All that has happened so far; None if some of it was lost."""
        messages: list[Message] = []
        lost = False
        while True:
            try:
                packet = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return None if lost else messages
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            messages += [Message(kind, body) for kind, _, _, body in _parse(packet)]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _open(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    opened.bind((0, 0))
    if protocol == NETLINK_ROUTE:
        opened.setsockopt(_SOL_NETLINK, _GET_STRICT, 1)
    return opened


def _parse(packet: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(packet):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(packet, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, packet[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _refusal(request: Request, body: bytes) -> OSError | None:
    number = -struct.unpack_from("=i", body)[0]
    if number == 0 or number in request.tolerated:
        return None
    return OSError(number, f"{request.what}: {os.strerror(number)}")
