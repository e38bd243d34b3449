"""`/containers/x/archive`, `export` and `changes`: the files of containers."""

import base64
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from agent.engine.copying import Copying, Stat
from agent.engine.engine import Engine
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.errors import InvalidArgument

_STAT = "X-Docker-Container-Path-Stat"
_TAR = "application/x-tar"


class Archive:
    """Handlers of files in containers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _copying(self) -> Copying:
        return self._engine.copying

    def add_routes(self, router: Router) -> None:
        one = "/containers/{id}"
        router.add("HEAD", f"{one}/archive", self.look)
        router.add("GET", f"{one}/archive", self.pack, stream=True)
        router.add("PUT", f"{one}/archive", self.unpack)
        router.add("GET", f"{one}/export", self.export, stream=True)
        router.add("GET", f"{one}/changes", self.changes)

    async def look(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        found = await self._copying.look(container, _path(call))
        response = call.empty(200)
        response.headers[_STAT] = _encoded(found)
        return response

    async def pack(self, call: Call) -> web.StreamResponse:
        container, path = self._engine.find(call.parts["id"]), _path(call)
        found = await self._copying.look(container, path)
        async with self._copying.pack(container, path) as archive:
            return await _sent(call, archive, {_STAT: _encoded(found)})

    async def export(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        async with self._copying.export(container) as archive:
            return await _sent(call, archive, {})

    async def unpack(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in call.request.content.iter_chunked(1 << 18):
                yield chunk

        await self._copying.unpack(
            container,
            _path(call),
            chunks(),
            no_overwrite=call.flag("noOverwriteDirNonDir"),
            own=call.flag("copyUIDGID"),
        )
        self._engine.lifecycle.publish(container, "extract-to-dir")
        return call.empty(200)

    async def changes(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        found = await self._copying.changes(container)
        return call.json([{"Path": path, "Kind": kind} for kind, path in found] or None)


async def _sent(
    call: Call, archive: AsyncIterator[bytes], headers: dict[str, str]
) -> web.StreamResponse:
    """The archive; what goes wrong before its first bytes is an error as any other."""
    first = await anext(archive, b"")
    stream = await call.stream(_TAR, headers)
    await stream.write(first)
    async for data in archive:
        await stream.write(data)
    return stream.response


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidArgument(
            "bad parameter: path must be given: where in the container", field="path"
        )
    if "\0" in path:
        raise InvalidArgument("bad parameter: path holds a zero byte", field="path")
    return path


def _encoded(found: Stat) -> str:
    return base64.b64encode(msgspec.json.encode(found)).decode()
