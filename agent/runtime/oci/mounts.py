"""The mounts of a container, in the order in which runc makes them. P.

Docker's own come first, then the user's. Called by `agent.runtime.oci.bundle`.
"""

from typing import Any

from agent.runtime.oci.process import INIT
from agent.runtime.oci.request import ContainerRequest, ResolvedMount
from shoal.model.errors import InvalidArgument

SHM_SIZE = 64 << 20
_TMPFS = ("noexec", "nosuid", "nodev")
_PROPAGATIONS = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}


def mounts(request: ContainerRequest) -> list[dict[str, Any]]:
    """All of them; a user's mount replaces a default one at the same place."""
    own = _tmpfs(request) + [_bind(mount) for mount in request.mounts]
    own += _files(request, {mount["destination"] for mount in own})
    taken = {mount["destination"] for mount in own}
    defaults = [mount for mount in _defaults(request) if mount["destination"] not in taken]
    # A mount inside another must come after it, or it would be hidden.
    own.sort(key=lambda mount: mount["destination"].rstrip("/").count("/"))
    return defaults + own


def _defaults(request: ContainerRequest) -> list[dict[str, Any]]:
    read = "rw" if request.host.privileged else "ro"
    safe = ["nosuid", "noexec", "nodev"]
    return [
        _mount("proc", "proc", "/proc", safe),
        _mount("tmpfs", "tmpfs", "/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "devpts",
            "devpts",
            "/dev/pts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _mount("sysfs", "sysfs", "/sys", [*safe, read]),
        _mount("cgroup", "cgroup", "/sys/fs/cgroup", [read, *safe]),
        _mount("mqueue", "mqueue", "/dev/mqueue", safe),  # of the IPC namespace that it is in
        *_shm(request, safe),
    ]


def _shm(request: ContainerRequest, safe: list[str]) -> list[dict[str, Any]]:
    if request.host.ipc_mode == "none":
        return []
    if request.host.ipc_mode == "host":
        return [_mount("bind", "/dev/shm", "/dev/shm", ["rbind", *safe])]  # noqa: S108
    if request.shm:
        return [_mount("bind", request.shm, "/dev/shm", ["rbind", *safe])]  # noqa: S108
    size = request.host.shm_size or SHM_SIZE
    return [_mount("tmpfs", "shm", "/dev/shm", [*safe, "mode=1777", f"size={size}"])]  # noqa: S108


def _tmpfs(request: ContainerRequest) -> list[dict[str, Any]]:
    found = [
        _mount("tmpfs", "tmpfs", target, [*_TMPFS, *(word for word in text.split(",") if word)])
        for target, text in request.host.tmpfs.items()
    ]
    for mount in request.host.mounts:
        if mount.type != "tmpfs":
            continue
        options = list(_TMPFS)
        if mount.tmpfs_options is not None:
            if mount.tmpfs_options.size_bytes:
                options.append(f"size={mount.tmpfs_options.size_bytes}")
            if mount.tmpfs_options.mode:
                options.append(f"mode={mount.tmpfs_options.mode:o}")
            options += ["=".join(pair) for pair in mount.tmpfs_options.options]
        if mount.read_only:
            options.append("ro")
        found.append(_mount("tmpfs", "tmpfs", mount.target, options))
    return found


def _bind(mount: ResolvedMount) -> dict[str, Any]:
    propagation = mount.propagation or "rprivate"
    if propagation not in _PROPAGATIONS:
        raise InvalidArgument(
            f'invalid propagation mode "{propagation}": use one of {sorted(_PROPAGATIONS)}',
            field="HostConfig.Mounts",
        )
    options = ["rbind" if mount.recursive else "bind", propagation]
    if mount.read_only:
        options += ["ro", "rro"] if mount.read_only_recursive else ["ro"]
    return _mount("bind", mount.source, mount.target, options)


def _files(request: ContainerRequest, taken: set[str]) -> list[dict[str, Any]]:
    files = (
        (request.resolv_conf, "/etc/resolv.conf"),
        (request.hostname_file, "/etc/hostname"),
        (request.hosts, "/etc/hosts"),
    )
    found = [
        _mount("bind", source, target, ["rbind", "rprivate"])
        for source, target in files
        if source and target not in taken
    ]
    if request.host.init:
        found.append(_mount("bind", request.init, INIT, ["bind", "ro"]))
    return found


def _mount(kind: str, source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"type": kind, "source": source, "destination": target, "options": options}
