"""Making a container out of a request: checks, defaults, image, name, volumes, first record."""

import asyncio
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from agent.engine import merge, mounting, records
from agent.engine.checking import check
from agent.engine.container import Container
from agent.engine.joining import asked_networks, check_settings, check_sharing, kind_of
from agent.engine.mounting import Wanted
from agent.engine.places import Places
from agent.engine.preparing import Ground
from agent.engine.records import Joined, Kind, MountPoint, Record
from agent.engine.registry import Registry
from agent.engine.seams import Images
from agent.images.image import Image
from agent.network.desired import Attachment
from agent.runtime.oci.bundle import MASKED, READONLY
from agent.volumes import Volumes
from shoal.common.clock import Clock
from shoal.common.entropy import new_hex_id
from shoal.model.container import (
    ContainerConfig,
    ContainerCreate,
    EndpointSettings,
    HostConfig,
    LogConfig,
    RestartPolicy,
)
from shoal.model.errors import InvalidArgument, NotFound

_SHM = 64 << 20


class Creator:
    """Makes containers of requests; `directories` are of containers and of their runs."""

    def __init__(
        self,
        directories: tuple[Path, Path],
        registry: Registry,
        images: Images,
        volumes: Volumes,
        ground: Ground,
        places: Places,
        clock: Clock,
    ) -> None:
        self._places = places
        self._directory, self._bundles = directories
        self._registry = registry
        self._images = images
        self._volumes = volumes
        self._ground = ground
        self._clock = clock

    async def create(
        self,
        request: ContainerCreate,
        name: str = "",
        *,
        owner: str = "",
        attachments: Sequence[Attachment] = (),
        labels: Mapping[str, str] | None = None,
        files: Sequence[MountPoint] = (),
    ) -> tuple[Container, list[str]]:
        """The new container, and warnings.

        `owner` is the task it is for, empty for a person's; a task's `attachments` count
        whatever the request says, its `labels` stand over the user's, and its `files` are
        mounted.
        """
        check_sharing(request)
        image = self._images.find(request.image)
        config = merge.merge(config_of(request), _of_image(image))
        config = replace(config, labels={**config.labels, **(labels or {})})
        host = self._host_config(request.host_config)
        check(config, host, init=bool(self._ground.init), cpus=os.cpu_count() or 1)
        command, tmpfs = merge.arguments(config), mounting.tmpfs(host)
        identity = new_hex_id()
        kind: Kind = "mesh" if attachments else kind_of(host, config)
        asked = asked_networks(kind, host, config, request.networking_config)
        name = self._registry.reserve(name, identity)
        joined: list[Joined] = []
        try:
            for network, settings in asked.items():
                joined.append(await self._resolved(network, settings, identity, name))
            self._images.acquire(image.id, identity)
            mounts, populate = await asyncio.to_thread(self._mounts, config, host)
            container = self._made(
                Record(
                    id=identity,
                    name=name,
                    created_at=self._clock.now(),
                    image_id=image.id,
                    config=_identified(config, identity, host),
                    host_config=host,
                    networking=request.networking_config,
                    command=command,
                    mounts=mounts,
                    tmpfs=tmpfs,
                    files=tuple(files),
                    populate=populate,
                    network=kind,
                    joined=tuple(joined),
                    attachments=tuple(attachments),
                    owner=owner,
                )
            )
        except BaseException:
            self._registry.release(name, identity)
            await self._places.give_back(tuple(joined))
            await self._images.release(identity)
            shutil.rmtree(self._directory / identity, ignore_errors=True)
            raise
        self._registry.add(container)
        self._images.acquire(image.id, identity, lambda: container.state.running)
        return container, _warnings(request.host_config)

    async def _resolved(
        self, network: str, settings: EndpointSettings, identity: str, name: str
    ) -> Joined:
        try:
            return await self._places.resolve(network, settings, identity, name)
        except NotFound:  # it may be made before the start, as with Docker
            check_settings(network, settings)
            return Joined(network="", name=network, settings=settings)

    def _made(self, record: Record) -> Container:
        directory = self._directory / record.id
        directory.mkdir(parents=True, mode=0o710)
        records.save(directory, record)
        return Container(record, directory, self._bundles / record.id)

    def _host_config(self, asked: HostConfig) -> HostConfig:
        """The request with Docker's defaults filled in."""
        mode = asked.network_mode
        private = "private" if self._ground.cgroup_v2 else "host"
        return replace(
            asked,
            network_mode="bridge" if mode in ("", "default", "nat") else mode,
            log_config=LogConfig(
                type=asked.log_config.type or "json-file", config=asked.log_config.config
            ),
            restart_policy=RestartPolicy(
                name=asked.restart_policy.name or "no",
                maximum_retry_count=asked.restart_policy.maximum_retry_count,
            ),
            ipc_mode=asked.ipc_mode or "private",
            cgroupns_mode=asked.cgroupns_mode or private,
            shm_size=asked.shm_size or _SHM,
            runtime=asked.runtime or "runc",
            memory_swap=asked.memory_swap or 2 * asked.memory,
            masked_paths=_paths(asked, asked.masked_paths, MASKED),
            readonly_paths=_paths(asked, asked.readonly_paths, READONLY),
        )

    def _mounts(
        self, config: ContainerConfig, host: HostConfig
    ) -> tuple[tuple[MountPoint, ...], tuple[str, ...]]:
        found: dict[str, MountPoint] = {}
        populate: list[str] = []
        for mount in self._inherited(host):
            found[mount.destination] = mount
        wants = [
            want
            for want in mounting.wanted(config, host)
            if want.destination not in found or want.source or want.name
        ]
        for want in wants:  # all of them before anything is made of one
            self._check(want)
        anonymous: list[str] = []
        try:
            for want in wants:
                mount = found[want.destination] = self._settled(want)
                if want.type == "volume" and not want.name:
                    anonymous.append(mount.name)
                if want.type == "volume" and not want.no_copy:
                    populate.append(want.destination)
        except BaseException:
            for name in anonymous:
                self._volumes.remove(name, [])
            raise
        return tuple(found.values()), tuple(populate)

    def _check(self, want: Wanted) -> None:
        """Refuse a mount whose source is not there and will not be made."""
        try:
            if want.type == "bind":
                _check_source(want)
            elif want.subpath:
                mountpoint = self._volumes.get(want.name).mountpoint if want.name else ""
                _subpath(mountpoint, want.subpath)
        except NotFound as error:
            raise InvalidArgument(
                f"subpath {want.subpath!r} does not exist in its volume, which is not there",
                field="HostConfig.Mounts",
            ) from error
        except OSError as error:
            raise _unusable(want, error) from error

    def _settled(self, want: Wanted) -> MountPoint:
        if want.type == "bind":
            if want.create_source:
                _make_source(want)
            return mounting.settled(want, want.source, "")
        try:
            volume = self._volumes.ensure(
                want.name,
                driver=want.driver,
                labels=dict(want.labels),
                options=dict(want.options),
            )
        except NotFound as error:  # of a driver; clients take it for a missing image
            raise InvalidArgument(str(error), field="HostConfig.Mounts") from error
        return mounting.settled(want, _subpath(volume.mountpoint, want.subpath), volume.name)

    def _inherited(self, host: HostConfig) -> list[MountPoint]:
        """`--volumes-from`."""
        found: list[MountPoint] = []
        for text in host.volumes_from or ():
            name, _, mode = text.partition(":")
            if mode not in ("", "rw", "ro"):
                raise InvalidArgument(f"invalid mode for volumes-from: {mode}")
            found += [
                replace(mount, rw=mount.rw and mode != "ro")
                for mount in self._registry.find(name).record.mounts
            ]
        return found


def config_of(request: ContainerCreate) -> ContainerConfig:
    """The part of a request that belongs to the container wherever it runs."""
    names = [field.name for field in msgspec.structs.fields(ContainerConfig)]
    return ContainerConfig(**{name: getattr(request, name) for name in names})


def _of_image(image: Image) -> ContainerConfig:
    """The image's defaults in the container's shape; what it does not say is empty."""
    said = {k: v for k, v in msgspec.to_builtins(image.config).items() if v is not None}
    if said.get("Healthcheck"):
        check = said["Healthcheck"].items()
        said["Healthcheck"] = {k: v for k, v in check if v is not None}
    return msgspec.convert(said, ContainerConfig)


def _identified(config: ContainerConfig, identity: str, host: HostConfig) -> ContainerConfig:
    if config.hostname or host.uts_mode == "host":
        return config
    if host.network_mode == "host":
        return replace(config, hostname=platform.node())
    return replace(config, hostname=identity[:12])


def _check_source(want: Wanted) -> None:
    if not want.create_source and not Path(want.source).exists():
        raise InvalidArgument(
            'invalid mount config for type "bind": bind source path does not exist:'
            f" {want.source}",
            field="HostConfig.Mounts",
        )


def _make_source(want: Wanted) -> None:
    try:
        if not Path(want.source).exists():
            Path(want.source).mkdir(parents=True)
    except OSError as error:
        raise _unusable(want, error) from error


def _unusable(want: Wanted, error: OSError) -> InvalidArgument:
    what = want.source or want.subpath
    return InvalidArgument(
        f'invalid mount config for type "{want.type}": {what}: {error.strerror}',
        field="HostConfig.Mounts",
    )


def _subpath(mountpoint: str, subpath: str) -> str:
    if not subpath:
        return mountpoint
    if not mountpoint:
        raise InvalidArgument(f"subpath {subpath!r} does not exist in a volume that is made")
    root = Path(mountpoint).resolve()
    place = (root / subpath).resolve()
    if root != place and root not in place.parents:
        raise InvalidArgument(f"subpath {subpath!r} leads out of its volume")
    if not place.exists():
        raise InvalidArgument(f"subpath {subpath!r} does not exist in its volume")
    return str(place)


def _paths(
    host: HostConfig, asked: tuple[str, ...] | None, default: tuple[str, ...]
) -> tuple[str, ...] | None:
    if asked is not None:
        return asked
    unconfined = "systempaths=unconfined" in (host.security_opt or ())
    return () if host.privileged or unconfined else default


def _warnings(asked: HostConfig) -> list[str]:
    if asked.port_bindings and asked.network_mode == "host":
        return ["Published ports are discarded when using host network mode"]
    return []
