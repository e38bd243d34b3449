"""`/volumes`: the local volumes of this host."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
from aiohttp import web

from agent.engine.engine import Engine
from agent.engine.pruning import Pruning
from agent.volumes import Volume, size_of
from shoal.common.clock import Clock
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.container import EngineWire
from shoal.model.errors import NotFound, Unimplemented


class VolumeCreate(EngineWire, frozen=True, kw_only=True):
    """The body of `POST /volumes/create`."""

    name: str = ""
    driver: str = ""
    driver_opts: Mapping[str, str] = msgspec.field(default_factory=dict)
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    cluster_volume_spec: Mapping[str, object] | None = None


class Volumes:
    """Handlers of volumes."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._volumes = engine.volumes

    def add_routes(self, router: Router) -> None:
        router.add("GET", "/volumes", self.list_all)
        router.add("POST", "/volumes/create", self.create)
        router.add("POST", "/volumes/prune", self.prune)
        router.add("GET", "/volumes/{name}", self.inspect)
        router.add("DELETE", "/volumes/{name}", self.remove)

    async def list_all(self, call: Call) -> web.StreamResponse:
        filters = call.filters({"dangling", "driver", "label", "name"})
        dangling = filters.truth("dangling")
        chosen = [
            volume.to_wire()
            for volume in self._volumes
            if filters.pattern("name", volume.name)
            and filters.exact("driver", "local")
            and filters.labels(volume.labels)
            and dangling in (None, not self._engine.users_of(volume.name))
        ]
        return call.json({"Volumes": chosen, "Warnings": None})

    async def create(self, call: Call) -> web.StreamResponse:
        asked = await call.body(VolumeCreate)
        if asked.cluster_volume_spec is not None:
            raise Unimplemented("cluster volumes (CSI) are not supported")
        volume = self._volumes.ensure(
            asked.name, driver=asked.driver, labels=asked.labels, options=asked.driver_opts
        )
        self._engine.events.publish("volume", "create", volume.name, {"driver": "local"})
        return call.json(volume.to_wire(), 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.json(self._volumes.get(call.parts["name"]).to_wire())

    async def remove(self, call: Call) -> web.StreamResponse:
        name = call.parts["name"]
        try:
            self._volumes.get(name)
        except NotFound:
            if call.flag("force"):
                return call.empty()
            raise
        await self._delete(name)
        return call.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters({"all", "label", "label!"})
        chosen = Pruning(filters, self._clock.now())
        every = filters.truth("all") or call.version < (1, 42)
        deleted, freed = [], 0
        for volume in list(self._volumes):
            if self._engine.users_of(volume.name) or not (every or volume.anonymous):
                continue
            if chosen.takes(volume.labels):
                freed += await asyncio.to_thread(_size, volume)
                await self._delete(volume.name)
                deleted.append(volume.name)
        return call.json({"VolumesDeleted": deleted or None, "SpaceReclaimed": freed})

    async def _delete(self, name: str) -> None:
        users = self._engine.users_of(name)
        await asyncio.to_thread(self._volumes.remove, name, users)
        self._engine.events.publish("volume", "destroy", name, {"driver": "local"})


def _size(volume: Volume) -> int:
    return size_of(Path(volume.mountpoint))
