"""A container's request -> its OCI runtime configuration, with Docker's defaults. P.

Nothing here looks at the host: what must be looked up is in `ContainerRequest`. What cannot be
honoured is refused with a sentence, never dropped. Called by the engine; the driver
`agent.runtime.oci.runtime` takes the result in a `Bundle`.
"""

from typing import Any

from agent.runtime.oci.mounts import mounts
from agent.runtime.oci.process import container_process, hostname
from agent.runtime.oci.request import ContainerRequest
from agent.runtime.oci.resources import device_rules, resources
from shoal.model.container import HostConfig
from shoal.model.errors import InvalidArgument, Unimplemented

OCI_VERSION = "1.0.2"

MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0"}
_PING_GROUPS = ("net.ipv4.ping_group_range", "0 2147483647")
_UNCONFINED = {"seccomp", "apparmor", "label", "systempaths", "no-new-privileges"}


def oci_config(request: ContainerRequest) -> dict[str, Any]:
    """The complete `config.json`."""
    host = request.host
    check_supported(request.host, init=bool(request.init))
    linux: dict[str, Any] = {
        "cgroupsPath": request.cgroup,
        "namespaces": _namespaces(request),
        "resources": resources(host, request.block_devices)
        | {"devices": device_rules(host, request.devices, privileged=host.privileged)},
        "rootfsPropagation": _propagation(request),
    }
    if request.devices:
        linux["devices"] = [
            {
                "path": device.path,
                "type": device.kind,
                "major": device.major,
                "minor": device.minor,
                "fileMode": device.mode,
                "uid": device.uid,
                "gid": device.gid,
            }
            for device in request.devices
        ]
    if not host.privileged:
        linux["maskedPaths"] = _paths(host, host.masked_paths, MASKED)
        linux["readonlyPaths"] = _paths(host, host.readonly_paths, READONLY)
        if request.seccomp is not None:
            linux["seccomp"] = request.seccomp
    if sysctls := _sysctls(host):
        linux["sysctl"] = sysctls
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": container_process(request),
        "root": {"path": request.rootfs, "readonly": host.readonly_rootfs},
        "mounts": mounts(request),
        "linux": linux,
        "annotations": dict(host.annotations),
    }
    if host.uts_mode != "host" and "uts" not in request.namespaces:
        config["hostname"] = hostname(request)
        if request.config.domainname:
            # runc 1.1 has no domainname of its own; the kernel's is a sysctl of the namespace.
            linux.setdefault("sysctl", {})["kernel.domainname"] = request.config.domainname
    return config


def _namespaces(request: ContainerRequest) -> list[dict[str, str]]:
    host = request.host
    found = [{"type": "mount"}]
    if host.network_mode != "host":
        found.append({"type": "network"} | ({"path": request.netns} if request.netns else {}))
    for kind, mode in (("uts", host.uts_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)):
        if mode == "host":
            continue
        found.append({"type": kind})
        if mode.startswith("container:"):
            if kind not in request.namespaces:
                raise InvalidArgument(
                    f"{kind} namespace of {mode} is not there: is it running?"
                )
            found[-1]["path"] = request.namespaces[kind]
    private = host.cgroupns_mode == "private" or (
        not host.cgroupns_mode and request.cgroup_v2 and not host.privileged
    )
    return [*found, {"type": "cgroup"}] if private else found


def _propagation(request: ContainerRequest) -> str:
    """A shared or slave mount inside needs the root to let it through."""
    kinds = {mount.propagation.removeprefix("r") for mount in request.mounts}
    if "shared" in kinds:
        return "shared"
    return "slave" if "slave" in kinds else "rprivate"


def _paths(
    host: HostConfig, given: tuple[str, ...] | None, default: tuple[str, ...]
) -> list[str]:
    if "systempaths=unconfined" in (host.security_opt or ()):
        return []
    return list(default if given is None else given)


def _sysctls(host: HostConfig) -> dict[str, str]:
    """The user's, over Docker's two for unprivileged ports and ping in an own network."""
    sysctls: dict[str, str] = {}
    if host.network_mode != "host":
        sysctls = dict([*_NETWORK_SYSCTLS.items(), _PING_GROUPS])
    elif any(name.startswith("net.") for name in host.sysctls):
        raise InvalidArgument(
            "sysctls of net.* are not allowed in host network mode", field="HostConfig.Sysctls"
        )
    return sysctls | dict(host.sysctls)


def check_supported(host: HostConfig, *, init: bool) -> None:
    """Refuse what this runtime cannot do; `init`: the host has an init program."""
    refusals = (
        (bool(host.init) and not init, "Init: no static init program (tini) is there"),
        (host.userns_mode not in {"", "host"}, f"user namespace mode {host.userns_mode!r}"),
        (bool(host.device_requests), "device requests such as --gpus"),
        (bool(host.storage_opt), "storage options"),
        (bool(host.cgroup), "joining another container's cgroup"),
        (host.isolation not in {"", "default"}, f"isolation {host.isolation!r}"),
        (bool(host.cpu_count or host.cpu_percent), "CpuCount and CpuPercent (Windows only)"),
        (
            bool(host.io_maximum_iops or host.io_maximum_bandwidth),
            "IOMaximumIOps and IOMaximumBandwidth (Windows only)",
        ),
        (
            bool(host.kernel_memory or host.kernel_memory_tcp),
            "KernelMemory and KernelMemoryTCP, which kernels have no more",
        ),
    )
    for refused, what in refusals:
        if refused:
            raise Unimplemented(f"{what}: not supported by this host's container runtime")
    for option in host.security_opt or ():
        kind, _, value = option.replace(":", "=", 1).partition("=")
        if kind not in _UNCONFINED:
            raise InvalidArgument(
                f"invalid --security-opt 2: {option!r}", field="HostConfig.SecurityOpt"
            )
        if kind in {"apparmor", "label"} and value not in {"unconfined", "disable"}:
            raise Unimplemented(f"security option {option!r}: {kind} is not supported here")
