"""What is wrong with a request for a container before anything is made of it. Pure.

The sentences are Docker's where it has one. What only the host can say (devices, sources of
binds) is found later, in `creation` and at the start.
"""

import ipaddress
import re

from agent.engine import files, mounting, ports, restart, signals
from agent.engine.preparing import log_policy
from agent.health import counting
from agent.runtime.oci import bundle, resources
from agent.runtime.oci.capabilities import capabilities
from agent.runtime.oci.process import RLIMITS
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import InvalidArgument, Unimplemented

_LEAST_MEMORY = 6 << 20
_LOG_DRIVERS = ("", "json-file", "local", "k8s-file")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}")
_HOSTNAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_CPU_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def check(config: ContainerConfig, host: HostConfig, *, init: bool, cpus: int) -> None:
    """Refuse what cannot be; `init`: there is an init program, `cpus`: of this host."""
    restart.check(host.restart_policy)
    counting.check(config.healthcheck)
    mounting.check_types(host.mounts)
    signals.parse(config.stop_signal)
    log_policy(host)
    ports.wanted(config, host)
    files.check_hosts(host.extra_hosts or ())
    capabilities(host.cap_add or (), host.cap_drop or (), privileged=host.privileged)
    bundle.check_supported(host, init=init)
    _check_config(config)
    _check_host(host)
    check_limits(host, cpus)
    _check_modes(host)


def check_limits(host: HostConfig, cpus: int) -> None:
    """Refuse impossible limits; also for `docker update`."""
    if host.memory < 0 or host.nano_cpus < 0:
        raise InvalidArgument("limits of memory and CPU cannot be negative", field="HostConfig")
    if 0 < host.memory < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB", field="HostConfig.Memory")
    if host.nano_cpus > cpus * 1_000_000_000:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {cpus:.2f}, as there are only {cpus} CPUs"
            " available",
            field="HostConfig.NanoCpus",
        )
    for name, number in (
        ("CpuShares", host.cpu_shares),
        ("ShmSize", host.shm_size),
        ("MemoryReservation", host.memory_reservation),
        ("CpuPeriod", host.cpu_period),
    ):
        if number < 0:
            raise InvalidArgument(
                f"{name} must not be negative: {number}", field=f"HostConfig.{name}"
            )
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument(
            "Range of blkio weight is from 10 to 1000", field="HostConfig.BlkioWeight"
        )
    _check_cpus(host.cpuset_cpus, cpus)
    resources.check(host)


def _check_config(config: ContainerConfig) -> None:
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an"
            " absolute path",
            field="WorkingDir",
        )
    for number, entry in enumerate(config.env or ()):
        if not entry.partition("=")[0]:
            raise InvalidArgument(
                f"invalid environment variable: {entry}", field=f"Env[{number}]"
            )
    for key in config.exposed_ports:
        ports.split(key)
    if config.hostname and not _HOSTNAME.fullmatch(config.hostname):
        raise InvalidArgument(
            f"invalid hostname format: {config.hostname!r}: letters, digits, '.', '-' and '_'",
            field="Hostname",
        )
    if config.mac_address:
        _check_mac(config.mac_address)
    if config.stop_timeout is not None and config.stop_timeout < -1:
        raise InvalidArgument(
            f"StopTimeout must be seconds, or -1 for no limit: {config.stop_timeout}",
            field="StopTimeout",
        )


def _check_host(host: HostConfig) -> None:
    if host.auto_remove and host.restart_policy.name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    if host.log_config.type not in _LOG_DRIVERS:
        raise Unimplemented(
            f"logging driver {host.log_config.type!r} is not supported: use json-file"
        )
    if host.links:
        raise Unimplemented("links between containers are not supported: use a network")
    if host.runtime not in ("runc", "oci"):
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]",
            field="HostConfig.OomScoreAdj",
        )
    _check_ulimits(host)
    for server in host.dns:
        try:
            ipaddress.ip_address(server)
        except ValueError as error:
            raise InvalidArgument(
                f"invalid IP address: {server}: DNS servers are addresses",
                field="HostConfig.Dns",
            ) from error


def _check_ulimits(host: HostConfig) -> None:
    for position, limit in enumerate(host.ulimits or ()):
        path = f"HostConfig.Ulimits[{position}]"
        if limit.name not in RLIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}", field=f"{path}.Name")
        if limit.soft > limit.hard != -1:
            raise InvalidArgument(
                "ulimit soft limit must be less than or equal to hard limit:"
                f" {limit.soft} > {limit.hard}",
                field=path,
            )


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


def _check_cpus(text: str, cpus: int) -> None:
    for part in filter(None, text.split(",")):
        found = _CPU_RANGE.fullmatch(part.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise InvalidArgument(
                f"invalid value {text!r} for cpuset cpus", field="HostConfig.CpusetCpus"
            )
        if int(found[2] or found[1]) >= cpus:
            raise InvalidArgument(
                f"Requested CPUs are not available - requested {text}, available: 0-{cpus - 1}",
                field="HostConfig.CpusetCpus",
            )


def _check_mac(text: str) -> None:
    if not _MAC.fullmatch(text):
        raise InvalidArgument(f"{text} is not a valid mac address", field="MacAddress")
