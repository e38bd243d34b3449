"""A connection taken over from HTTP: raw bytes both ways, with half-close.

aiohttp closes a transport when the client sends the end of its stream, which `docker run`
without `-i` does at once; all output would be lost. So the transport is given this protocol
instead, whose `eof_received` keeps it open. The loss of the connection is still reported to
aiohttp's protocol, which cancels the handler. Made by `Call.hijack`.
"""

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
from collections import deque

from aiohttp import web
from typing_extensions import override

_HIGH_WATER = 1 << 18
_HEAD_SECONDS = 0.1
_LOOK = 0.001  # the kernel gives no event


def _unread(fd: int) -> int:
    """Bytes that the other end of a unix socket has not read yet."""
    if fd < 0:
        return 0
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class Hijacked(web.StreamResponse):
    """What a handler returns after a takeover: the reply has long been sent by hand."""

    @override
    async def prepare(self, request: web.BaseRequest) -> None:
        self.force_close()

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        return


class Connection(asyncio.Protocol):
    """The raw connection. One reader, one writer; neither buffers without end."""

    def __init__(self, transport: asyncio.Transport, aiohttp: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._aiohttp = aiohttp
        self._received: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._lost = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._head_sent = False

    @override
    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        self._held += len(data)
        self._readable.set()
        if self._held > _HIGH_WATER and not self._transport.is_closing():
            self._transport.pause_reading()

    @override
    def eof_received(self) -> bool:
        self._ended = True
        self._readable.set()
        return True

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._lost = True
        self._readable.set()
        self._writable.set()
        self._aiohttp.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._writable.clear()

    @override
    def resume_writing(self) -> None:
        self._writable.set()

    async def read(self) -> bytes:
        """The next bytes from the client, b"" once it has sent the end of its stream."""
        while not self._received:
            if self._ended:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = self._received.popleft()
        self._held -= len(data)
        if self._held <= _HIGH_WATER and not (self._ended or self._transport.is_closing()):
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client is behind.

        Raises:
            ConnectionResetError: the client is gone.
        """
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError("the client has closed the connection")
        if self._head_sent:
            self._head_sent = False
            await self._until_read()
        self._transport.write(data)
        await self._writable.wait()

    async def _until_read(self) -> None:
        """Give the client a moment to take the head alone.

        Many read it through a buffer and what follows from the bare socket: what came with
        the head is lost to them. What is unread the kernel knows of unix sockets only.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEAD_SECONDS):
                while not self._lost and _unread(sock.fileno()):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK)

    def write_eof(self) -> None:
        """Half-close our side; the client may still send."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> Hijacked:
        """Send what is buffered and close; returns what the handler shall return."""
        self._transport.close()
        return Hijacked()
