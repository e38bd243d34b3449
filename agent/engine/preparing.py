"""What a container needs to be created by the runtime: root, files, volumes, specification.

Looks at the host and into the image, so that the conversion to OCI stays pure. Called by
`lifecycle` before each start, and by `execs` for the process of an exec.
"""

import asyncio
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from agent.engine import mounting, own_files
from agent.engine.container import Container
from agent.engine.records import Record
from agent.engine.seams import Images
from agent.engine.volume_mounts import VolumeMounts
from agent.network.desired import Endpoint
from agent.runtime.oci import resources, rootfs
from agent.runtime.oci.bundle import oci_config
from agent.runtime.oci.capabilities import capabilities
from agent.runtime.oci.process import ExecRequest, exec_process
from agent.runtime.oci.request import ContainerRequest, ResolvedDevice, ResolvedMount
from agent.runtime.oci.seccomp import compile_profile, default_profile, parse_profile
from agent.runtime.runtime import Bundle, LogPolicy
from agent.volumes import is_empty
from shoal.model.container import BindOptions, HostConfig
from shoal.model.errors import Conflict
from shoal.model.linux import CAPABILITIES
from shoal.model.units import parse_size

ROOT = "fs"
_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What containers of this host stand on.

    Attributes:
        cgroup_parent: under which cgroups lie by default, such as `/shoal/<instance>`.
        init: path of a static init program, empty where the host has none.
        capabilities: those that this host can give.
        recursive_read_only: a read-only mount can be that below, too (Linux 5.12).
    """

    cgroup_parent: str
    cgroup_v2: bool
    init: str = ""
    capabilities: tuple[str, ...] = CAPABILITIES
    recursive_read_only: bool = True


class Preparer:
    """Makes bundles. `running` finds a container that runs, by name or id."""

    def __init__(
        self,
        ground: Ground,
        images: Images,
        volumes: VolumeMounts,
        running: Callable[[str], Container],
    ) -> None:
        self.volumes = volumes
        self._ground = ground
        self._images = images
        self._running = running

    async def mount(self, container: Container) -> None:
        """Mount the root, and fill fresh volumes from it."""
        layers = await self._images.layers(container.record.image_id)
        root = await asyncio.to_thread(rootfs.mount, container.directory / ROOT, layers)
        await self.volumes.mount(container.record)
        if container.record.populate:
            await asyncio.to_thread(_populate, root, container.record)
            container.change(populate=())

    async def unmount(self, container: Container) -> None:
        """End the mount; what was written stays."""
        await asyncio.to_thread(rootfs.unmount, container.directory / ROOT)
        await self.volumes.unmount(container.record)

    def netns(self, record: Record, endpoint: Endpoint | None) -> str:
        """The network namespace to join: its own, another container's, or empty."""
        other = self._shared(record)
        if other is not None:
            return f"/proc/{other.state.pid}/ns/net"
        return endpoint.netns_path if endpoint is not None else ""

    def _shared(self, record: Record) -> Container | None:
        """The container whose network it has, and with it that one's names."""
        mode = record.host_config.network_mode
        is_shared = mode.startswith("container:")
        return self._running(mode.partition(":")[2]) if is_shared else None

    async def bundle(self, container: Container, endpoint: Endpoint | None) -> Bundle:
        """The bundle of a container whose root is mounted."""
        netns = self.netns(container.record, endpoint)
        other = self._shared(container.record)
        if other is not None:
            of = other.record.config
            config = container.record.config
            container.change(
                config=msgspec.structs.replace(
                    config, hostname=of.hostname, domainname=of.domainname
                ),
                files_of=other.id,
            )
        return await asyncio.to_thread(self._bundle, container, endpoint, netns)

    async def exec_process(
        self, container: Container, wanted: ExecRequest, user: str
    ) -> Mapping[str, Any]:
        """The OCI process of an exec in a running container."""
        return await asyncio.to_thread(self._exec_process, container, wanted, user)

    def adoption(self, container: Container) -> Bundle:
        """What the runtime needs to find a container of an earlier agent again."""
        record = container.record
        kinds = ("network", "pid", "ipc", "uts", "mount")
        return Bundle(
            id=record.id,
            directory=container.bundle,
            logs=container.directory,
            spec={
                "linux": {
                    "cgroupsPath": self._cgroup(record),
                    "namespaces": [
                        {"type": kind} for kind in kinds if kind != "pid" or _own_pids(record)
                    ],
                }
            },
            terminal=record.config.tty,
            stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=log_policy(record.host_config),
        )

    def _bundle(self, container: Container, endpoint: Endpoint | None, netns: str) -> Bundle:
        record, host = container.record, container.record.host_config
        root = container.directory / ROOT / rootfs.MERGED
        if record.config.working_dir:
            rootfs.make_workdir(root, record.config.working_dir)
        request = self._request(container, root)
        container.bundle.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not record.files_of:
            own_files.write(container, endpoint)
        directory = own_files.directory(container)
        request = msgspec.structs.replace(
            request,
            netns=netns,
            namespaces=self._joined(host),
            shm=self._shm(host),
            resolv_conf=str(directory / "resolv.conf"),
            hosts=str(directory / "hosts"),
            hostname_file=str(directory / "hostname"),
        )
        return msgspec.structs.replace(self.adoption(container), spec=oci_config(request))

    def _exec_process(
        self, container: Container, wanted: ExecRequest, user: str
    ) -> Mapping[str, Any]:
        root = container.directory / ROOT / rootfs.MERGED
        if user:
            who = rootfs.resolve_user(root, user, ())
            wanted = msgspec.structs.replace(wanted, user=who)
        return exec_process(self._request(container, root), wanted)

    def _request(self, container: Container, root: Path) -> ContainerRequest:
        record, host = container.record, _with_tmpfs(container.record)
        return ContainerRequest(
            id=record.id,
            config=record.config,
            host=host,
            rootfs=str(root),
            cgroup=self._cgroup(record),
            user=rootfs.resolve_user(root, record.config.user, host.group_add or ()),
            hostname=record.config.hostname,
            mounts=tuple(self._mounts(record)),
            devices=tuple(_devices(host)),
            block_devices={
                path: rootfs.block_device(path) for path in resources.block_devices(host)
            },
            known_capabilities=self._ground.capabilities,
            cgroup_v2=self._ground.cgroup_v2,
            seccomp=self._seccomp(host),
            init=self._ground.init,
            terminal_size=host.console_size,
        )

    def _mounts(self, record: Record) -> Iterator[ResolvedMount]:
        asked = mounting.bind_options(record.host_config)
        for mount in record.mounts:
            options = asked.get(mount.destination, BindOptions())
            below = not (options.non_recursive or options.read_only_non_recursive)
            yield ResolvedMount(
                source=mount.source,
                target=mount.destination,
                read_only=not mount.rw,
                read_only_recursive=below and self._ground.recursive_read_only,
                recursive=not options.non_recursive,
                propagation=mount.propagation,
            )
        for file in record.files:
            yield ResolvedMount(
                source=file.source, target=file.destination, read_only=not file.rw
            )

    def _seccomp(self, host: HostConfig) -> Mapping[str, Any] | None:
        held = capabilities(
            host.cap_add or (),
            host.cap_drop or (),
            privileged=host.privileged,
            known=self._ground.capabilities,
        )
        text = ""
        for option in host.security_opt or ():
            kind, _, value = option.replace(":", "=", 1).partition("=")
            if kind == "seccomp":
                text = value
        if text == "unconfined" or host.privileged:
            return None
        if text:
            return compile_profile(parse_profile(text), held, platform.machine())
        return _default_seccomp(tuple(held))

    def _cgroup(self, record: Record) -> str:
        parent = record.host_config.cgroup_parent or self._ground.cgroup_parent
        return f"{parent.rstrip('/')}/{record.id}"

    def _joined(self, host: HostConfig) -> dict[str, str]:
        modes = (("pid", host.pid_mode), ("ipc", host.ipc_mode), ("uts", host.uts_mode))
        return {
            kind: f"/proc/{self._running(mode.partition(':')[2]).state.pid}/ns/{kind}"
            for kind, mode in modes
            if mode.startswith("container:")
        }

    def _shm(self, host: HostConfig) -> str:
        if not host.ipc_mode.startswith("container:"):
            return ""
        other = self._running(host.ipc_mode.partition(":")[2])
        return f"/proc/{other.state.pid}/root/dev/shm"


def log_policy(host: HostConfig) -> LogPolicy:
    """Whether output is kept, and rotation as `max-size=10m` and `max-file=3` ask for it."""
    options = host.log_config.config
    return LogPolicy(
        kept=host.log_config.type != "none",
        max_size=parse_size(options["max-size"]) if "max-size" in options else 0,
        max_files=int(options.get("max-file", "1")),
    )


def _own_pids(record: Record) -> bool:
    mode = record.host_config.pid_mode
    return mode != "host" and not mode.startswith("container:")


def _with_tmpfs(record: Record) -> HostConfig:
    return msgspec.structs.replace(
        record.host_config,
        tmpfs={
            mount.destination: ",".join(mount.options or _TMPFS_DEFAULTS)
            for mount in record.tmpfs
        },
        mounts=(),
    )


def _devices(host: HostConfig) -> list[ResolvedDevice]:
    """Those asked for; a privileged container has the host's besides."""
    asked = [
        rootfs.resolve_device(
            device.path_on_host,
            device.path_in_container or device.path_on_host,
            device.cgroup_permissions or "rwm",
        )
        for device in host.devices
    ]
    taken = {device.path for device in asked}
    of_host = rootfs.host_devices() if host.privileged else ()
    return [*asked, *(device for device in of_host if device.path not in taken)]


@lru_cache(maxsize=32)
def _default_seccomp(held: tuple[str, ...]) -> Mapping[str, Any]:
    return compile_profile(default_profile(), held, platform.machine())


def _populate(root: Path, record: Record) -> None:
    """Copy what the image has at a fresh volume's place into it, owner and mode too."""
    for mount in record.mounts:
        if mount.destination not in record.populate or not is_empty(Path(mount.source)):
            continue
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY
            source = rootfs.open_inside(root, mount.destination, flags)
        except OSError:
            continue  # the image has no directory there
        try:
            done = subprocess.run(
                ["cp", "-a", f"/proc/{os.getpid()}/fd/{source}/.", mount.source],
                capture_output=True,
                check=False,
            )
        finally:
            os.close(source)
        if done.returncode != 0:
            raise Conflict(
                f"volume {mount.name} could not get the image's content:"
                f" {done.stderr.decode(errors='replace').strip()}"
            )
