"""What is wrong with a request for a container before anything is made of it. Pure.

The sentences are Docker's where it has one; what services obey too is in
`shoal.model.validate.settings` and `mounts`. What only the host can say (devices, sources of
binds) is found later, in `creation` and at the start.
"""

import re

from agent.engine import files, ports, restart
from agent.runtime.oci import bundle, resources
from shoal.model.container import ContainerConfig, DeviceMapping, HostConfig
from shoal.model.errors import InvalidArgument, Unimplemented
from shoal.model.validate import settings
from shoal.model.validate.mounts import check_mounts
from shoal.model.validate.refusal import OF_HOST

_LEAST_MEMORY = 6 << 20
_MOST_BYTES = (1 << 62) - 1  # twice that, with swap, still fits the kernel's 64 bits
_NANO = 1_000_000_000
_LEAST_NANO_CPUS = _NANO // 100
_MOST_QUOTA = 1 << 40  # microseconds
_MOST_PIDS = 1 << 22
_MOST_NODES = 1024
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}")
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


def check(config: ContainerConfig, host: HostConfig, *, init: bool, cpus: int) -> None:
    """Refuse what cannot be; `init`: there is an init program, `cpus`: of this host."""
    restart.check(host.restart_policy)
    check_mounts(host.mounts, "HostConfig.Mounts", OF_HOST)
    _check_log(host)
    ports.wanted(config, host)
    bundle.check_supported(host, init=init)
    _check_config(config)
    _check_host(config, host)
    _check_kernel(host)
    _check_names(host)
    check_limits(host, cpus)
    _check_modes(host)


def check_limits(host: HostConfig, cpus: int) -> None:
    """Refuse impossible limits; also for `docker update`."""
    if 0 < host.memory < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB", field="HostConfig.Memory")
    if not (host.nano_cpus == 0 or _LEAST_NANO_CPUS <= host.nano_cpus <= cpus * _NANO):
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {cpus:.2f}, as there are only {cpus} CPUs"
            " available",
            field="HostConfig.NanoCpus",
        )
    for name, number, least, most in (
        ("Memory", host.memory, 0, _MOST_BYTES),
        ("MemoryReservation", host.memory_reservation, 0, _MOST_BYTES),
        ("MemorySwap", host.memory_swap, -1, _MOST_BYTES),
        ("MemorySwappiness", host.memory_swappiness, -1, 100),
        ("ShmSize", host.shm_size, 0, _MOST_BYTES),
        ("CpuShares", host.cpu_shares, 2, 262_144),
        ("CpuPeriod", host.cpu_period, 1_000, 1_000_000),
        ("CpuQuota", max(host.cpu_quota, 0), 1_000, _MOST_QUOTA),
        ("CpuRealtimePeriod", host.cpu_realtime_period, 0, 1_000_000),
        ("CpuRealtimeRuntime", host.cpu_realtime_runtime, 0, 1_000_000),
        ("PidsLimit", host.pids_limit, -1, _MOST_PIDS),
    ):
        if number and not least <= number <= most:
            sign = "must not be negative: it " if number < 0 <= least else ""
            raise InvalidArgument(
                f"{name} {sign}must be between {least} and {most}, not {number}",
                field=f"HostConfig.{name}",
            )
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument(
            "Range of blkio weight is from 10 to 1000", field="HostConfig.BlkioWeight"
        )
    _check_set(host.cpuset_cpus, "HostConfig.CpusetCpus", "CPUs", "cpuset cpus", cpus)
    _check_set(
        host.cpuset_mems, "HostConfig.CpusetMems", "memory nodes", "cpuset mems", _MOST_NODES
    )
    resources.check(host)


def _check_config(config: ContainerConfig) -> None:
    settings.check_directory(config.working_dir, "WorkingDir", OF_HOST)
    settings.check_environment(config.env or (), "Env", OF_HOST)
    settings.check_label_names(config.labels, "Labels", OF_HOST)
    settings.check_hostname(config.hostname, "Hostname", OF_HOST)
    settings.check_hostname(config.domainname, "Domainname", OF_HOST)
    settings.check_signal(config.stop_signal, "StopSignal", OF_HOST)
    if config.healthcheck is not None:
        settings.check_health(config.healthcheck, "Healthcheck", OF_HOST)
    for key in config.exposed_ports:
        ports.split(key)
    if config.mac_address:
        _check_mac(config.mac_address)
    if config.stop_timeout is not None and config.stop_timeout < -1:
        raise InvalidArgument(
            f"StopTimeout must be seconds, or -1 for no limit: {config.stop_timeout}",
            field="StopTimeout",
        )


def _makes_volumes(config: ContainerConfig, host: HostConfig) -> bool:
    return bool(config.volumes) or any(not bind.startswith("/") for bind in host.binds or ())


def _check_host(config: ContainerConfig, host: HostConfig) -> None:
    if host.auto_remove and host.restart_policy.name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    if host.links:
        raise Unimplemented("links between containers are not supported: use a network")
    if host.runtime not in ("runc", "oci"):
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    if host.volume_driver not in ("", "local") and _makes_volumes(config, host):
        raise InvalidArgument(  # not a 404, which clients take for a missing image
            f'plugin "{host.volume_driver}" not found: volumes are local',
            field="HostConfig.VolumeDriver",
        )
    if ".." in host.cgroup_parent.split("/") or not host.cgroup_parent.isprintable():
        raise InvalidArgument(
            f"invalid cgroup parent: {host.cgroup_parent!r}", field="HostConfig.CgroupParent"
        )


def _check_log(host: HostConfig) -> None:
    log, path = host.log_config, "HostConfig.LogConfig"
    settings.check_logging(log.type, log.config, (f"{path}.Type", f"{path}.Config"), OF_HOST)


def _check_kernel(host: HostConfig) -> None:
    """What the kernel gives, by names that it has."""
    path = "HostConfig"
    settings.check_capabilities(host.cap_add or (), f"{path}.CapAdd", OF_HOST)
    settings.check_capabilities(host.cap_drop or (), f"{path}.CapDrop", OF_HOST)
    settings.check_ulimits(host.ulimits or (), f"{path}.Ulimits", OF_HOST)
    settings.check_sysctls(host.sysctls, f"{path}.Sysctls", OF_HOST)
    settings.check_oom_score(host.oom_score_adj, f"{path}.OomScoreAdj", OF_HOST)
    for rule in host.device_cgroup_rules or ():
        resources.device_rule(rule)
    for number, device in enumerate(host.devices):
        _check_device(device, f"{path}.Devices[{number}]")


def _check_device(device: DeviceMapping, path: str) -> None:
    for name, place in (
        ("PathOnHost", device.path_on_host),
        ("PathInContainer", device.path_in_container or device.path_on_host),
    ):
        if not place.startswith("/") or ".." in place.split("/"):
            raise InvalidArgument(
                f"{place!r} is not an absolute path of a device", field=f"{path}.{name}"
            )
    if set(device.cgroup_permissions) - set("rwm"):
        raise InvalidArgument(
            f"invalid device mode: {device.cgroup_permissions}: it is out of r, w and m",
            field=f"{path}.CgroupPermissions",
        )


def _check_names(host: HostConfig) -> None:
    """How it looks names up."""
    settings.check_name_servers(host.dns, "HostConfig.Dns", OF_HOST)
    settings.check_words(host.dns_search, "HostConfig.DnsSearch", OF_HOST)
    settings.check_words(host.dns_options, "HostConfig.DnsOptions", OF_HOST)
    for number, entry in enumerate(host.extra_hosts or ()):
        name, address = files.extra_host(entry)
        settings.check_host(name, address, f"HostConfig.ExtraHosts[{number}]", OF_HOST)


def _check_modes(host: HostConfig) -> None:
    for name, mode, known in (
        ("pid", host.pid_mode, ("", "host", "private")),
        ("IPC", host.ipc_mode, ("", "none", "private", "shareable", "host")),
        ("uts", host.uts_mode, ("", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "private", "host")),
    ):
        of_container = name in ("pid", "IPC") and mode.startswith("container:")
        if mode not in known and not (of_container and mode != "container:"):
            raise InvalidArgument(f"invalid {name} mode: {mode}", field="HostConfig")


def _check_set(text: str, path: str, things: str, named: str, there: int) -> None:
    """A list of numbers and ranges of them, each less than `there`."""
    for part in filter(None, text.split(",")):
        found = _RANGE.fullmatch(part.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise InvalidArgument(f"invalid value {text!r} for {named}", field=path)
        if int(found[2] or found[1]) >= there:
            raise InvalidArgument(
                f"Requested {things} are not available - requested {text}, available:"
                f" 0-{there - 1}",
                field=path,
            )


def _check_mac(text: str) -> None:
    if not _MAC.fullmatch(text):
        raise InvalidArgument(f"{text} is not a valid mac address", field="MacAddress")
