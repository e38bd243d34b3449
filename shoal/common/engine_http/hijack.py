"""A connection taken over from HTTP: raw bytes both ways, with half-close.

aiohttp closes a transport when the client sends the end of its stream, which `docker run`
without `-i` does at once; all output would be lost. So the transport is given this protocol
instead, whose `eof_received` keeps it open. The loss of the connection is still reported to
aiohttp's protocol, which cancels the handler. Made by `Call.hijack`.
"""

import asyncio
from collections import deque

from aiohttp import web
from typing_extensions import override

_HIGH_WATER = 1 << 18


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
        self._transport.write(data)
        await self._writable.wait()

    def write_eof(self) -> None:
        """Half-close our side; the client may still send."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> Hijacked:
        """Send what is buffered and close; returns what the handler shall return."""
        self._transport.close()
        return Hijacked()
