"""What `bundle` needs to know of a container: the request and what was resolved for it. P.

The engine fills it: the image's config merged in, users and devices looked up, files generated,
namespaces of other containers found. So that the conversion itself never looks at the host.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.linux import CAPABILITIES


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs the command, as the image's own passwd and group files have it."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


class ResolvedMount(msgspec.Struct, frozen=True, kw_only=True):
    """A bind, volume, secret or config: where on the host, where inside.

    Attributes:
        propagation: empty for `rprivate`.
        read_only_recursive: what is mounted below is read-only too.
    """

    source: str
    target: str
    read_only: bool = False
    propagation: str = ""
    recursive: bool = True
    read_only_recursive: bool = False


class ResolvedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device node of the host: `kind` is `c` or `b`."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    permissions: str = "rwm"


class ContainerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A container to be turned into an OCI configuration.

    Attributes:
        id: of the container; its first 12 digits are the hostname where none is asked for.
        netns: path of the network namespace; empty gives an own, unwired one. The host's with
            `NetworkMode` `host`.
        namespaces: paths of other containers' namespaces for `container:<id>` modes, by `pid`,
            `ipc` or `uts`.
        block_devices: major and minor number of each device with a bound or weight, by path.
        known_capabilities: what this host can give; all of them and a privileged container's
            are no more.
        resolv_conf: paths of generated files, as are `hosts` and `hostname_file`; empty: none.
        shm: path of another container's /dev/shm for `IpcMode` `container:<id>`.
        cgroup: path of its cgroup, `<parent>/<id>`.
        cgroup_v2: whether the host's controllers are v2's.
        seccomp: the compiled filter; None runs without.
        init: path of a static init program on the host, for `HostConfig.Init`.
        terminal_size: (height, width) at the start.
    """

    id: str
    config: ContainerConfig
    host: HostConfig
    rootfs: str
    cgroup: str
    user: User = User()
    hostname: str = ""
    netns: str = ""
    namespaces: Mapping[str, str] = {}
    mounts: tuple[ResolvedMount, ...] = ()
    devices: tuple[ResolvedDevice, ...] = ()
    block_devices: Mapping[str, tuple[int, int]] = {}
    resolv_conf: str = ""
    hosts: str = ""
    hostname_file: str = ""
    shm: str = ""
    cgroup_v2: bool = False
    seccomp: Mapping[str, Any] | None = None
    init: str = ""
    terminal_size: tuple[int, int] = (0, 0)
    known_capabilities: tuple[str, ...] = CAPABILITIES
