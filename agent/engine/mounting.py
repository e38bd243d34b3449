"""From `-v`, `--mount`, `--tmpfs` and an image's volumes to settled mount points. Pure.

The forms and refusals are Docker's. Which directory a named volume has is `agent.volumes`'s to
say; what does not exist on the host is found when the container is created.
"""

import posixpath
from collections.abc import Mapping

import msgspec

from agent.engine.records import MountPoint, TmpfsMount
from shoal.model.container import BindOptions, ContainerConfig, HostConfig, Mount
from shoal.model.errors import InvalidArgument
from shoal.model.validate.mounts import PROPAGATIONS

_MODES = frozenset(
    ["ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent", *PROPAGATIONS]
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A mount as asked: a bind has a source, a volume a name (empty: an anonymous one).

    Attributes:
        create_source: a missing source directory is made, as `-v` does and `--mount` does not.
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    read_only: bool = False
    mode: str = ""
    propagation: str = ""
    create_source: bool = False
    no_copy: bool = False
    subpath: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    driver: str = ""
    options: tuple[tuple[str, str], ...] = ()


def wanted(config: ContainerConfig, host: HostConfig) -> list[Wanted]:
    """All binds and volumes of a container, one a destination; `--mount` and `-v` win."""
    found: dict[str, Wanted] = {}
    asked = [_bind(text) for text in host.binds or ()]
    asked += [_mount(mount) for mount in host.mounts if mount.type in ("bind", "volume")]
    for each in asked:
        if each.destination in found:
            raise InvalidArgument(f"Duplicate mount point: {each.destination}")
        found[each.destination] = each
    for destination in config.volumes or ():
        clean = _destination(destination, destination)
        found.setdefault(clean, Wanted(type="volume", destination=clean))
    return list(found.values())


def tmpfs(host: HostConfig) -> tuple[TmpfsMount, ...]:
    """All tmpfs of a container."""
    found = [
        TmpfsMount(destination=_destination(path, path), options=_options(options))
        for path, options in host.tmpfs.items()
    ]
    found += [_tmpfs_mount(mount) for mount in host.mounts if mount.type == "tmpfs"]
    return tuple(found)


def bind_options(host: HostConfig) -> Mapping[str, BindOptions]:
    """What `--mount` says of its binds, by destination."""
    return {
        posixpath.normpath(mount.target): mount.bind_options
        for mount in host.mounts
        if mount.bind_options is not None
    }


def settled(want: Wanted, source: str, name: str) -> MountPoint:
    """The mount point once its source directory is known."""
    if want.type == "bind":
        return MountPoint(
            type="bind",
            source=source,
            destination=want.destination,
            mode=want.mode,
            rw=not want.read_only,
            propagation=want.propagation or "rprivate",
        )
    return MountPoint(
        type="volume",
        name=name,
        source=source,
        destination=want.destination,
        driver="local",
        mode=want.mode or "z",
        rw=not want.read_only,
        propagation=want.propagation,
    )


def _bind(text: str) -> Wanted:
    parts = text.split(":")
    if not 1 < len(parts) < 4 or not all(parts):
        raise InvalidArgument(
            f"invalid volume specification: '{text}'", field="HostConfig.Binds"
        )
    source, target = parts[0], _destination(parts[1], text)
    modes = parts[2].split(",") if len(parts) == 3 else []
    for mode in modes:
        if mode not in _MODES:
            raise InvalidArgument(f"invalid mode: {parts[2]}", field="HostConfig.Binds")
    is_path = source.startswith("/")
    return Wanted(
        type="bind" if is_path else "volume",
        destination=target,
        source=posixpath.normpath(source) if is_path else "",
        name="" if is_path else source,
        read_only="ro" in modes,
        mode=",".join(modes),
        propagation=next((m for m in modes if m in PROPAGATIONS), ""),
        create_source=is_path,
        no_copy="nocopy" in modes,
    )


def _mount(mount: Mount) -> Wanted:
    target = _destination(mount.target, mount.target or "")
    if mount.type == "bind":
        bind = mount.bind_options
        return Wanted(
            type="bind",
            destination=target,
            source=posixpath.normpath(mount.source),
            read_only=mount.read_only,
            propagation=bind.propagation if bind else "",
            create_source=bool(bind and bind.create_mountpoint),
        )
    volume = mount.volume_options
    driver = volume.driver_config if volume else None
    return Wanted(
        type="volume",
        destination=target,
        name=mount.source,
        read_only=mount.read_only,
        no_copy=bool(volume and volume.no_copy),
        subpath=volume.subpath if volume else "",
        labels=tuple(volume.labels.items()) if volume else (),
        driver=driver.name if driver else "",
        options=tuple(driver.options.items()) if driver else (),
    )


def _tmpfs_mount(mount: Mount) -> TmpfsMount:
    options: list[str] = ["ro"] if mount.read_only else []
    if mount.tmpfs_options is not None:
        if mount.tmpfs_options.size_bytes:
            options.append(f"size={mount.tmpfs_options.size_bytes}")
        if mount.tmpfs_options.mode:
            options.append(f"mode={mount.tmpfs_options.mode:o}")
        options += ["=".join(pair) for pair in mount.tmpfs_options.options]
    return TmpfsMount(
        destination=_destination(mount.target, mount.target), options=tuple(options)
    )


def _options(text: str) -> tuple[str, ...]:
    return tuple(option for option in text.split(",") if option)


def _destination(path: str, whole: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{whole}': invalid mount config for type"
            f" \"volume\": invalid mount path: '{path}' mount path must be absolute"
        )
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidArgument(
            f"invalid volume specification: '{whole}': invalid specification: destination"
            " can't be '/'"
        )
    return clean
