"""The containers of this host: the door to everything in this package.

Made by the composition root; used by the API and, for tasks, by the controller. Opened once
(`async with`), it reads the records of an earlier agent; `adopt` takes their containers back.
"""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from agent.engine import (
    checking,
    describe,
    listing,
    measuring,
    names,
    own_files,
    records,
    updating,
)
from agent.engine.companions import Companions
from agent.engine.container import Container
from agent.engine.copying import Copying
from agent.engine.creation import Creator
from agent.engine.describe import Shown
from agent.engine.events import EventBus
from agent.engine.execs import Execs
from agent.engine.launching import Launcher
from agent.engine.lifecycle import Lifecycle
from agent.engine.networks import HostNetworks
from agent.engine.places import Places
from agent.engine.preparing import ROOT, Ground, Preparer
from agent.engine.pruning import Pruning
from agent.engine.records import MountPoint
from agent.engine.registry import Registry
from agent.engine.removal import Removal
from agent.engine.seams import Images, Wiring
from agent.engine.shown_networks import INGRESS, Networks
from agent.engine.updating import ContainerUpdate
from agent.engine.volume_mounts import VolumeMounts
from agent.images.image import Platform, parse_platform
from agent.images.manifest import fits
from agent.network import desired
from agent.runtime.controller import RuntimeFailure
from agent.runtime.oci import rootfs
from agent.runtime.runtime import Attachment, Runtime, Stats
from agent.volumes import Volumes, size_of
from shoal.common.clock import Clock
from shoal.common.engine_http.query import Filters
from shoal.model.container import ContainerCreate
from shoal.model.errors import ClusterError, Conflict, InvalidArgument, NotFound

log = structlog.get_logger(__name__)

_ADOPTING = 8
_STATS_SECONDS = 1.0


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine is told.

    Attributes:
        directory: of the containers' records, root file systems and logs.
        bundles: of what a run of them needs; a reboot empties it.
        networks: of the records of users' networks.
        instance: makes the ids of the host's own networks.
    """

    directory: Path
    bundles: Path
    networks: Path
    instance: str
    ground: Ground


class Engine:
    """Containers, a task's or a person's."""

    def __init__(
        self,
        settings: EngineSettings,
        runtime: Runtime,
        images: Images,
        wiring: Wiring,
        volumes: Volumes,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._images = images
        self._wiring = wiring
        self._clock = clock
        self._stack = AsyncExitStack()
        self.runtime = runtime
        self.volumes = volumes
        self.events = EventBus(clock)
        self.registry = Registry(random.Random())  # noqa: S311 - names, not secrets
        self.networks = HostNetworks(
            settings.networks, settings.instance, wiring, self.registry, self.events, clock
        )
        self.places = Places(self.networks, wiring)
        self._preparer = Preparer(settings.ground, images, VolumeMounts(volumes), self._running)
        self._removal = Removal(self.registry, images, volumes)
        launcher = Launcher(runtime, wiring, self._preparer, self.places)
        companions = Companions(runtime, self._preparer, self.events, clock)
        self.lifecycle = Lifecycle(
            runtime, launcher, companions, self._removal, self.events, clock
        )
        self._creator = Creator(
            (settings.directory, settings.bundles),
            self.registry,
            images,
            volumes,
            settings.ground,
            self.places,
            clock,
        )
        self.copying = Copying(self._preparer, images)
        self.execs = Execs(runtime, self._preparer, self.events)

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        await asyncio.to_thread(self._settings.directory.mkdir, parents=True, exist_ok=True)
        await self._stack.enter_async_context(self.lifecycle)
        await self._stack.enter_async_context(self.execs)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go; containers run on."""
        await self._stack.__aexit__(kind, error, trace)

    # -- the start of the agent ---------------------------------------------------------------

    async def adopt(self) -> None:
        """Take all containers of an earlier agent back, and end what is nobody's."""
        directory = self._settings.directory
        await self.networks.restore()
        for place, record in await asyncio.to_thread(lambda: list(records.load_all(directory))):
            if record is None or record.state.status == "removing":
                log.warning("removing an unfinished container", directory=place.name)
                await asyncio.to_thread(_sweep, place)
                continue
            self._take(Container(record, place, self._settings.bundles / record.id))
        await asyncio.to_thread(self._sweep_bundles)
        endpoints = [c.record.endpoint for c in self.registry if c.record.endpoint is not None]
        await self._wiring.adopt(endpoints)
        await self.places.tell_names()
        gate = asyncio.Semaphore(_ADOPTING)

        async def adopt_one(container: Container) -> None:
            async with gate:
                try:
                    await self.lifecycle.adopt(container)
                    if container.state.running:
                        await self.execs.adopt(container)
                except Exception:
                    log.exception("container could not be adopted", container=container.id)

        async with asyncio.TaskGroup() as group:
            for container in self.registry:
                group.create_task(adopt_one(container), name=f"adopt {container.id}")

    def _sweep_bundles(self) -> None:
        known = {container.bundle for container in self.registry}
        for place in set(self._settings.bundles.glob("*")) - known:
            shutil.rmtree(place, ignore_errors=True)

    def _take(self, container: Container) -> None:
        self.registry.add(container)
        if container.state.running:
            self._preparer.volumes.keep(container.record)
        try:
            self._images.acquire(
                container.record.image_id, container.id, lambda: container.state.running
            )
        except NotFound:
            log.warning("image of a container is gone", container=container.id)

    # -- containers ---------------------------------------------------------------------------

    async def create(
        self,
        request: ContainerCreate,
        name: str = "",
        *,
        owner: str = "",
        attachments: Sequence[desired.Attachment] = (),
        labels: Mapping[str, str] | None = None,
        files: Sequence[MountPoint] = (),
    ) -> tuple[str, list[str]]:
        """Make a container; its id and warnings. See `creation` for what is a task's."""
        container, warnings = await self._creator.create(
            request, name, owner=owner, attachments=attachments, labels=labels, files=files
        )
        self.lifecycle.publish(container, "create")
        return container.id, warnings

    def check_platform(self, reference: str, platform: str) -> None:
        """Refuse an image that is here for another platform."""
        image = self._images.find(reference)
        found = Platform(os=image.os, architecture=image.architecture, variant=image.variant)
        if not fits(found, parse_platform(platform)):
            raise NotFound(
                f"image with reference {reference} was found but does not match the specified"
                f" platform: wanted {platform}, actual: {found}"
            )

    def find(self, text: str) -> Container:
        """The container meant by an id, a name or the start of an id."""
        return self.registry.find(text)

    async def start(self, text: str) -> bool:
        return await self.lifecycle.start(self.find(text))

    async def stop(self, text: str, seconds: int | None = None, signal: str = "") -> bool:
        return await self.lifecycle.stop(self.find(text), seconds, signal)

    async def remove(self, text: str, *, force: bool = False, volumes: bool = False) -> None:
        await self.lifecycle.remove(self.find(text), force=force, volumes=volumes)

    async def wait(self, text: str, condition: str = "not-running") -> int:
        return await self.lifecycle.wait(self.find(text), condition)

    def rename(self, text: str, name: str) -> None:
        """Give a container another name."""
        container = self.find(text)
        old = container.record.name
        if names.check(name) == old:
            raise Conflict("Renaming a container with the same name as its current name")
        fresh = self.registry.reserve(name, container.id)
        container.change(name=fresh)
        self.registry.release(old, container.id)
        self.lifecycle.publish(container, "rename", oldName=f"/{old}")

    def _running(self, text: str) -> Container:
        container = self.find(text)
        if not container.state.running:
            raise Conflict(f"cannot join namespaces of a non running container: {container.id}")
        return container

    # -- what they show -----------------------------------------------------------------------

    def shown(self, container: Container) -> Shown:
        """A container and what is shown beside its record."""
        return Shown(
            record=container.record,
            health=container.health,
            execs=tuple(container.execs),
            directory=str(container.directory),
            files=str(own_files.directory(container)),
            networks=self._networks_of(container),
        )

    def _networks_of(self, container: Container) -> Networks:
        endpoint = container.record.endpoint
        ingress = self.networks.mesh.ingress
        published_on = {INGRESS: ingress.id} if ingress is not None else {}
        return Networks(
            local={**self.networks.builtin, **published_on},
            names=self._wiring.network_names,
            published=endpoint is not None and self._wiring.publishes(endpoint),
        )

    async def inspect(self, text: str, *, size: bool = False) -> dict[str, Any]:
        """`docker inspect`."""
        container = self.find(text)
        shape = describe.inspect(self.shown(container))
        if size:
            shape["SizeRw"], shape["SizeRootFs"] = await self._sizes(container)
        return shape

    async def list_containers(
        self, filters: Filters, *, every: bool = False, limit: int = 0, size: bool = False
    ) -> list[dict[str, Any]]:
        """`docker ps`."""
        chosen = listing.select(
            [self.shown(container) for container in self.registry],
            filters,
            every=every,
            limit=limit,
            find=lambda text: self.shown(self.find(text)),
            image_id=self._image_id,
        )
        now = self._clock.now()
        rows = [describe.row(shown, now) for shown in chosen]
        if size:
            for entry in rows:
                container = self.find(entry["Id"])
                entry["SizeRw"], entry["SizeRootFs"] = await self._sizes(container)
        return rows

    def _image_id(self, text: str) -> str:
        try:
            return self._images.find(text).id
        except ClusterError:
            return text

    async def _sizes(self, container: Container) -> tuple[int, int]:
        written = await asyncio.to_thread(size_of, container.directory / ROOT / rootfs.UPPER)
        try:
            return written, written + self._images.find(container.record.image_id).size
        except NotFound:
            return written, written

    async def top(self, text: str, arguments: str) -> dict[str, Any]:
        """`docker top`."""
        return await measuring.top(self.runtime, self.find(text), arguments)

    async def readings(
        self, container: Container, *, once: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Objects of the stats stream, one a second, each with the one before."""
        before: Stats | None = None
        if not container.state.running:
            yield measuring.nothing_to_wire(container)
            return
        while container.state.running:
            now = await self.runtime.stats(container.id)
            if before is not None or once:
                yield await asyncio.to_thread(measuring.stats_to_wire, container, now, before)
            before = now
            await asyncio.sleep(_STATS_SECONDS)  # a rate needs two readings and time between

    async def update(self, text: str, wanted: ContainerUpdate) -> None:
        """`docker update`."""
        container = self.find(text)
        host = updating.apply(container.record.host_config, wanted)
        checking.check_limits(host, os.cpu_count() or 1)
        if container.state.running:
            try:
                await self.runtime.update(container.id, updating.limits(host))
            except RuntimeFailure as error:  # most of the time the kernel has no such limit
                raise InvalidArgument(
                    f"Cannot update container {container.id}: {error}"
                ) from error
        container.change(host_config=host)
        self.lifecycle.publish(container, "update")

    async def prune(self, filters: Filters) -> tuple[list[str], int]:
        """Remove all containers that do not run: their ids, and the bytes they had written."""
        chosen = Pruning(filters, self._clock.now())
        deleted, freed = [], 0
        for container in self.registry:
            record = container.record
            if record.state.status not in ("created", "exited", "dead") or record.owner:
                continue
            if chosen.takes(record.config.labels, record.created_at):
                written, _ = await self._sizes(container)
                await self.lifecycle.remove(container)
                deleted.append(container.id)
                freed += written
        return deleted, freed

    async def attach(self, container: Container) -> Attachment:
        """The container's stdio; before its start this waits for it and misses nothing."""
        if container.state.running:
            return await self.runtime.attach(container.id)
        with container.early_attacher() as future:
            return await future

    def users_of(self, volume: str) -> list[str]:
        """Ids of the containers that mount a volume."""
        return self._removal.users_of(volume)


def _sweep(directory: Path) -> None:
    with contextlib.suppress(OSError):
        rootfs.unmount(directory / ROOT)
    shutil.rmtree(directory, ignore_errors=True)
