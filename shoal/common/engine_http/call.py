"""One request, as handlers see it: path parts, query, body, and the forms a reply can take."""

import asyncio
from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web
from typing_extensions import override

from shoal.common.engine_http import body, frames, query
from shoal.common.engine_http.hijack import Connection
from shoal.common.engine_http.hop import HOP, Unpacker
from shoal.common.engine_http.query import Filters
from shoal.common.engine_http.versions import Version
from shoal.model.errors import InvalidArgument, Unavailable

T = TypeVar("T", bound=msgspec.Struct)

BODY_LIMIT = 2 << 20
"""The largest that is of use is a config of 1,000 KiB in base64."""
BODY_SECONDS = 60.0


class Call:
    """A request that has found its handler.

    Attributes:
        version: the API version the client speaks.
        path: the request's path without the version.
        parts: the variable parts of the path.
        begun: an answer is on its way, no other can be given.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        version: Version,
        path: str,
        parts: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> None:
        self.request = request
        self.version = version
        self.path = path
        self.parts = parts
        self.begun = False
        self._headers = headers

    def text(self, name: str, default: str = "") -> str:
        """A query value."""
        return self.request.query.get(name, default)

    def texts(self, name: str) -> list[str]:
        """All values of a repeated query key."""
        return list(self.request.query.getall(name, []))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean of the query, as Docker reads it."""
        return query.flag(self.request.query.get(name), default=default)

    def number(self, name: str, default: int) -> int:
        """An integer of the query."""
        return query.number(self.request.query.get(name), name, default)

    def filters(self, known: Collection[str]) -> Filters:
        """The `filters` of a list; a key outside `known` is refused."""
        return query.parse_filters(self.request.query.get("filters"), known)

    async def raw_body(self, limit: int = BODY_LIMIT) -> bytes:
        """The whole body, bounded in size and in the time the client may take to send it."""
        chunks: list[bytes] = []
        size = 0
        if (self.request.content_length or 0) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in self.request.content.iter_chunked(1 << 16):
                    size += len(chunk)
                    if size > limit:
                        raise _too_large(limit)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise InvalidArgument(
                f"the request body did not arrive within {BODY_SECONDS:.0f} seconds"
            ) from error
        return b"".join(chunks)

    async def json_body(self) -> bytes:
        """The body as it came, which must call itself JSON if there is any."""
        data = await self.raw_body()
        if data:
            body.check_content_type(self.request.headers.get("Content-Type", ""))
        return data

    async def body(self, model: type[T]) -> T:
        """The JSON body as `model`."""
        return body.decode(await self.json_body(), model)

    async def optional_body(self, model: type[T]) -> T | None:
        """The JSON body as `model`, None where the client sent none."""
        data = await self.raw_body()
        if not data.strip():
            return None
        body.check_content_type(self.request.headers.get("Content-Type", ""))
        return body.decode(data, model)

    def json(self, value: object, status: int = 200) -> web.Response:
        """A JSON reply."""
        return self.json_bytes(msgspec.json.encode(value) + b"\n", status)

    def json_bytes(self, encoded: bytes, status: int = 200) -> web.Response:
        """A JSON reply whose bytes are there already."""
        return web.Response(status=status, body=encoded, content_type="application/json")

    def empty(self, status: int = 204) -> web.Response:
        """A reply without a body."""
        return web.Response(status=status)

    async def stream(
        self, content_type: str, headers: Mapping[str, str] | None = None
    ) -> "Stream":
        """Begin a reply of unknown length; its headers leave at once."""
        response = web.StreamResponse(
            headers={**self._headers, **(headers or {}), "Content-Type": content_type}
        )
        self.begun = True
        await response.prepare(self.request)
        return Stream(response)

    @property
    def wants_upgrade(self) -> bool:
        """The client asks for a takeover in today's form (101)."""
        return "upgrade" in self.request.headers.get("Connection", "").lower()

    def hijack(self, *, terminal: bool) -> Connection:
        """Take the connection over for raw bytes; answers in the form the client asked for."""
        kind = frames.content_type(self.version, terminal=terminal)
        connection = self.take_over()
        if self.wants_upgrade:
            head = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        else:
            head, kind = "HTTP/1.1 200 OK\r\n", frames.RAW
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        connection.send_head(f"{head}Content-Type: {kind}\r\n{lines}\r\n".encode())
        return connection

    def take_over(self) -> "RawConnection":
        """The bare connection, nothing answered yet: for a proxy."""
        protocol = self.request.protocol
        transport = self.request.transport
        if not isinstance(transport, asyncio.Transport):
            raise Unavailable("the client has closed the connection")
        on_hop = self.wants_upgrade and HOP in self.request.headers
        kind = PiecedConnection if on_hop else RawConnection
        connection = kind(transport, protocol)
        self.begun = True
        early: bytes = getattr(protocol, "_message_tail", b"")  # sent before our answer
        transport.set_protocol(connection)
        transport.resume_reading()
        if early:
            connection.data_received(early)
        return connection


def _too_large(limit: int) -> InvalidArgument:
    return InvalidArgument(f"request body too large: the limit is {limit} bytes")


class RawConnection(Connection):
    """A taken-over connection whose first bytes are ours to write."""

    def send_head(self, head: bytes) -> None:
        """Write the head of the reply, at once."""
        self._head_sent = True
        self._transport.write(head)


class PiecedConnection(RawConnection):
    """One whose client's bytes come in pieces, passed on by another server of ours."""

    def __init__(self, transport: asyncio.Transport, aiohttp: asyncio.BaseProtocol) -> None:
        super().__init__(transport, aiohttp)
        self._unpacker = Unpacker()

    @override
    def data_received(self, data: bytes) -> None:
        for part in self._unpacker.feed(data):
            if part:
                super().data_received(part)
            else:
                self.eof_received()


class Stream:
    """A reply of unknown length: bytes, or JSON objects each flushed at once."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def write(self, data: bytes) -> None:
        await self.response.write(data)

    async def json(self, value: object) -> None:
        """One JSON object, ended as Docker ends them."""
        await self.response.write(msgspec.json.encode(value) + b"\r\n")

    async def failure(self, sentence: str) -> None:
        """A failure after the status has gone out, as pull, load and build report it."""
        await self.json({"errorDetail": {"message": sentence}, "error": sentence})
