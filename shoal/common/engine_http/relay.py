"""Passing a request on to another server of the API, and its answer back, byte for byte.

For the agent (to its manager) and the manager (to the agent that has a container). Nothing of
the request is understood here; bodies are streamed, taken-over connections keep half-close.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import structlog
from multidict import CIMultiDict
from typing_extensions import override

from shoal.common.engine_http.call import Call, RawConnection
from shoal.common.engine_http.hop import HOP, piece

log = structlog.get_logger(__name__)

_CHUNK = 1 << 16
_OURS = {"host", "connection", "content-length", "transfer-encoding", "expect", HOP.lower()}


class Upstream(Protocol):
    """Where the client's bytes go."""

    @property
    def reader(self) -> asyncio.StreamReader: ...

    async def send(self, data: bytes) -> None: ...

    def end(self) -> None:
        """The client says no more, and still listens."""
        ...


class Plain:
    """A connection that can be half-closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        if self._writer.can_write_eof():
            self._writer.write_eof()


class Pieces(Plain):
    """A hop, on which the end of the input must be said."""

    @override
    async def send(self, data: bytes) -> None:
        self._writer.write(piece(data))
        await self._writer.drain()

    @override
    def end(self) -> None:
        self._writer.write(piece(b""))


def headers(call: Call) -> CIMultiDict[str]:
    """The client's headers; the connection's own are said anew."""
    kept: CIMultiDict[str] = CIMultiDict(
        (name, value)
        for name, value in call.request.headers.items()
        if name.lower() not in _OURS and (call.wants_upgrade or name.lower() != "upgrade")
    )
    kept["Connection"] = "Upgrade" if call.wants_upgrade else "close"
    if "Content-Length" in call.request.headers:
        kept["Content-Length"] = call.request.headers["Content-Length"]
    elif call.request.body_exists:
        kept["Transfer-Encoding"] = "chunked"
    return kept


def target(call: Call) -> str:
    """Path and query as the client said them."""
    return str(call.request.rel_url.raw_path_qs)


async def send_body(call: Call, writer: asyncio.StreamWriter) -> None:
    """The client's body, as it comes."""
    sized = "Content-Length" in call.request.headers
    if not sized and not call.request.body_exists:
        await writer.drain()
        return
    async for data in _body(call):
        writer.write(data if sized else b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()
    if not sized:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _body(call: Call) -> AsyncIterator[bytes]:
    async for data in call.request.content.iter_chunked(_CHUNK):
        yield data


async def both_ways(client: RawConnection, upstream: Upstream, *, upgraded: bool) -> None:
    """Until the other server has said all; what the client still says goes along meanwhile.

    The end of a plain request's client is the end of all: it has left.
    """
    async with asyncio.TaskGroup() as group:
        answering = group.create_task(_answer(client, upstream.reader))
        asking = group.create_task(_ask(client, upstream, upgraded=upgraded))
        if not upgraded:
            asking.add_done_callback(lambda _: answering.cancel())
        await asyncio.wait([answering])
        asking.cancel()


async def _answer(client: RawConnection, reader: asyncio.StreamReader) -> None:
    try:
        while data := await reader.read(_CHUNK):
            await client.write(data)
    except (ConnectionError, OSError):
        log.debug("a passed-on connection broke")


async def _ask(client: RawConnection, upstream: Upstream, *, upgraded: bool) -> None:
    try:
        while data := await client.read():
            await upstream.send(data)
        if upgraded:
            upstream.end()
    except (ConnectionError, OSError):
        log.debug("a passed-on connection broke")
