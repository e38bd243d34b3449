"""`/containers`: the person's verbs on this host's containers."""

from typing import Any

import msgspec
from aiohttp import web

from agent.engine import listing
from agent.engine.engine import Engine
from agent.engine.pruning import FILTERS
from agent.engine.updating import ContainerUpdate
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.container import ContainerCreate
from shoal.model.errors import ClusterError, Conflict, InvalidArgument

_CONDITIONS = ("", "not-running", "next-exit", "removed")


class Containers:
    """Handlers of `/containers` but for streams."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_routes(self, router: Router) -> None:
        one = "/containers/{id}"
        router.add("GET", "/containers/json", self.list_all)
        router.add("POST", "/containers/create", self.create)
        router.add("POST", "/containers/prune", self.prune)
        router.add("GET", f"{one}/json", self.inspect)
        router.add("GET", f"{one}/top", self.top)
        router.add("GET", f"{one}/stats", self.stats, stream=True)
        router.add("POST", f"{one}/start", self.start)
        router.add("POST", f"{one}/stop", self.stop)
        router.add("POST", f"{one}/restart", self.restart)
        router.add("POST", f"{one}/kill", self.kill)
        router.add("POST", f"{one}/pause", self.pause)
        router.add("POST", f"{one}/unpause", self.unpause)
        router.add("POST", f"{one}/rename", self.rename)
        router.add("POST", f"{one}/resize", self.resize)
        router.add("POST", f"{one}/update", self.update)
        router.add("POST", f"{one}/wait", self.wait, stream=True)
        router.add("DELETE", one, self.remove)

    async def list_all(self, call: Call) -> web.StreamResponse:
        rows = await self._engine.list_containers(
            call.filters(listing.FILTERS),
            every=call.flag("all"),
            limit=call.number("limit", 0),
            size=call.flag("size"),
        )
        return call.json(rows)

    async def create(self, call: Call) -> web.StreamResponse:
        request = await call.body(ContainerCreate)
        if call.text("platform"):
            self._engine.check_platform(request.image, call.text("platform"))
        identity, warnings = await self._engine.create(request, call.text("name"))
        return call.json({"Id": identity, "Warnings": warnings}, 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.json(await self._engine.inspect(call.parts["id"], size=call.flag("size")))

    async def start(self, call: Call) -> web.StreamResponse:
        changed = await self._engine.start(call.parts["id"])
        return call.empty(204 if changed else 304)

    async def stop(self, call: Call) -> web.StreamResponse:
        changed = await self._engine.stop(call.parts["id"], _seconds(call), call.text("signal"))
        return call.empty(204 if changed else 304)

    async def restart(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        await self._engine.lifecycle.restart(container, _seconds(call), call.text("signal"))
        return call.empty()

    async def kill(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        await self._engine.lifecycle.kill(container, call.text("signal"))
        return call.empty()

    async def pause(self, call: Call) -> web.StreamResponse:
        await self._engine.lifecycle.pause(self._engine.find(call.parts["id"]))
        return call.empty()

    async def unpause(self, call: Call) -> web.StreamResponse:
        await self._engine.lifecycle.unpause(self._engine.find(call.parts["id"]))
        return call.empty()

    async def rename(self, call: Call) -> web.StreamResponse:
        self._engine.rename(call.parts["id"], call.text("name"))
        return call.empty()

    async def resize(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        height, width = call.number("h", 0), call.number("w", 0)
        if not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        await self._engine.runtime.resize(container.id, height, width)
        return call.empty(200)

    async def update(self, call: Call) -> web.StreamResponse:
        wanted = await call.body(ContainerUpdate)
        await self._engine.update(call.parts["id"], wanted)
        return call.json({"Warnings": None})

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.flag("link"):
            raise InvalidArgument("links between containers are not supported")
        await self._engine.remove(
            call.parts["id"], force=call.flag("force"), volumes=call.flag("v")
        )
        return call.empty()

    async def wait(self, call: Call) -> web.StreamResponse:
        condition = call.text("condition", "not-running")
        if condition not in _CONDITIONS:
            raise InvalidArgument(f'invalid condition: "{condition}"', field="condition")
        container = self._engine.find(call.parts["id"])
        stream = await call.stream("application/json")  # headers first: start comes after them
        try:
            code = await self._engine.lifecycle.wait(container, condition or "not-running")
            await stream.write(msgspec.json.encode({"StatusCode": code}) + b"\n")
        except ClusterError as error:
            body: dict[str, Any] = {"StatusCode": -1, "Error": {"Message": str(error)}}
            await stream.write(msgspec.json.encode(body) + b"\n")
        return stream.response

    async def top(self, call: Call) -> web.StreamResponse:
        return call.json(await self._engine.top(call.parts["id"], call.text("ps_args", "-ef")))

    async def stats(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        follow = call.flag("stream", default=True)
        once = call.flag("one-shot")
        stream = await call.stream("application/json")
        async for reading in self._engine.readings(container, once=once and not follow):
            await stream.write(msgspec.json.encode(reading) + b"\n")
            if not follow:
                break
        return stream.response

    async def prune(self, call: Call) -> web.StreamResponse:
        deleted, freed = await self._engine.prune(call.filters(FILTERS))
        return call.json({"ContainersDeleted": deleted or None, "SpaceReclaimed": freed})


def _seconds(call: Call) -> int | None:
    return call.number("t", 0) if call.text("t") else None
