"""`docker update`: other limits and restart policy for a container that exists. Pure."""

from typing import Any

import msgspec

from agent.engine import restart
from agent.runtime.oci.resources import resources
from shoal.model.container import EngineWire, HostConfig, RestartPolicy


class ContainerUpdate(EngineWire, frozen=True, kw_only=True):
    """The body of `POST /containers/x/update`; what is zero or absent stays as it is."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    blkio_weight: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: int = 0
    memory_swap: int = 0
    pids_limit: int | None = None
    restart_policy: RestartPolicy = RestartPolicy()


def apply(host: HostConfig, update: ContainerUpdate) -> HostConfig:
    """The host configuration after the update."""
    changes: dict[str, Any] = {
        field.name: value
        for field in msgspec.structs.fields(update)
        if field.name != "restart_policy" and (value := getattr(update, field.name))
    }
    if update.restart_policy.name:
        restart.check(update.restart_policy)
        changes["restart_policy"] = update.restart_policy
    return msgspec.structs.replace(host, **changes)


def limits(host: HostConfig) -> dict[str, Any]:
    """The OCI resources to tell the runtime."""
    return resources(host)
