"""A small root file system out of the host's static busybox, and containers made of it."""

import os
import platform
import shutil
from pathlib import Path

from msgspec.structs import replace

from agent.runtime.oci.bundle import oci_config
from agent.runtime.oci.capabilities import capabilities
from agent.runtime.oci.request import ContainerRequest
from agent.runtime.oci.seccomp import compile_profile, default_profile
from agent.runtime.runtime import Bundle, LogPolicy
from shoal.common.entropy import new_hex_id
from shoal.model.container import ContainerConfig, HostConfig

APPLETS = (
    "sh cat echo sleep true false id stty unshare dd tail head seq kill env touch mount yes"
)


def make_rootfs(path: Path) -> Path:
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "root"):
        (path / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", path / "bin/busybox")
    for applet in APPLETS.split():
        os.link(path / "bin/busybox", path / f"bin/{applet}")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nweb:x:33:\nextra:x:44:web\n")
    return path


def make_request(
    rootfs: Path,
    cgroup_parent: str,
    *command: str,
    host: HostConfig | None = None,
    config: ContainerConfig | None = None,
    container: str = "",
) -> ContainerRequest:
    asked = host or HostConfig()
    number = container or new_hex_id()
    held = capabilities(asked.cap_add or (), asked.cap_drop or (), privileged=asked.privileged)
    return ContainerRequest(
        id=number,
        config=replace(config or ContainerConfig(), cmd=command),
        host=asked,
        rootfs=str(rootfs),
        cgroup=f"{cgroup_parent}/{number}",
        seccomp=compile_profile(default_profile(), held, platform.machine()),
    )


def make_bundle(
    request: ContainerRequest, directory: Path, log: LogPolicy | None = None
) -> Bundle:
    return Bundle(
        id=request.id,
        directory=directory / request.id,
        logs=directory / request.id,
        spec=oci_config(request),
        terminal=request.config.tty,
        stdin=request.config.open_stdin,
        stdin_once=request.config.stdin_once,
        log=log or LogPolicy(),
    )
