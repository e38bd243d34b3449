"""From what a node is told of a task to the container it asks the engine for. Pure.

The same translation as Docker's own executor makes: service specs and `docker run` meet in one
shape, so a task's container is inspected, logged and stopped like any other.
"""

from agent.network.desired import MESH, Attachment
from shoal.model.assignment import AssignedTask
from shoal.model.container import (
    ContainerCreate,
    HostConfig,
    LogConfig,
    PortBinding,
    Ulimit,
)
from shoal.model.ids import ServiceID
from shoal.model.spec.task import ContainerSpec, Limit

_SECOND = 1_000_000_000


def container_of(task: AssignedTask) -> ContainerCreate:
    """The request for a task's container; its labels are given to the engine apart."""
    spec = task.container
    return ContainerCreate(
        image=spec.image,
        hostname=spec.hostname,
        user=spec.user,
        env=spec.env or None,
        entrypoint=spec.command or None,
        cmd=spec.args or None,
        working_dir=spec.dir,
        tty=spec.tty,
        open_stdin=spec.open_stdin,
        healthcheck=spec.healthcheck,
        stop_signal=spec.stop_signal,
        stop_timeout=_seconds(spec.stop_grace_period),
        exposed_ports={_key(port.target_port, port.protocol): {} for port in task.ports},
        host_config=_host(task, spec),
    )


def attachments_of(task: AssignedTask) -> tuple[Attachment, ...]:
    """A task's networks: the cluster's in their order, the gateway network last.

    On the host's own network there are none. With ports of this host's the gateway network is
    needed in any case, else the network decides.
    """
    if task.host_network:
        return ()
    service = ServiceID("") if task.ports or not task.networks else task.service_id
    return (
        *(
            Attachment(
                network=each.network_id,
                addresses=each.addresses,
                mac=each.mac,
                aliases=each.aliases,
            )
            for each in task.networks
        ),
        Attachment(network=MESH, service=service),
    )


def _host(task: AssignedTask, spec: ContainerSpec) -> HostConfig:
    limits = task.resources.limits if task.resources is not None else None
    limits = limits or Limit()
    dns = spec.dns_config
    driver = task.log_driver
    return HostConfig(
        network_mode="host" if task.host_network else "default",
        nano_cpus=limits.nano_cpus,
        memory=limits.memory_bytes,
        memory_swap=_swap(task, limits),
        memory_swappiness=task.resources.memory_swappiness if task.resources else None,
        pids_limit=limits.pids or None,
        mounts=spec.mounts,
        init=spec.init,
        readonly_rootfs=spec.read_only,
        group_add=spec.groups or None,
        cap_add=spec.capability_add or None,
        cap_drop=spec.capability_drop or None,
        sysctls=spec.sysctls,
        ulimits=tuple(
            Ulimit(name=each.name, soft=each.soft, hard=each.hard) for each in spec.ulimits
        )
        or None,
        oom_score_adj=spec.oom_score_adj,
        extra_hosts=tuple(_extra_host(line) for line in spec.hosts) or None,
        dns=dns.nameservers if dns is not None else (),
        dns_search=dns.search if dns is not None else (),
        dns_options=dns.options if dns is not None else (),
        security_opt=_security(spec),
        log_config=LogConfig(
            type=driver.name if driver is not None else "",
            config=dict(driver.options) if driver is not None else {},
        ),
        port_bindings={
            _key(port.target_port, port.protocol): (
                PortBinding(host_port=str(port.published_port or "")),
            )
            for port in task.ports
        },
    )


def _swap(task: AssignedTask, limits: Limit) -> int:
    """Docker counts swap and memory together; a spec gives swap alone, -1 for no limit."""
    swap = task.resources.swap_bytes if task.resources is not None else None
    if swap is None or not limits.memory_bytes:
        return 0
    return -1 if swap < 0 else limits.memory_bytes + swap


def _security(spec: ContainerSpec) -> tuple[str, ...] | None:
    privileges = spec.privileges
    if privileges is None:
        return None
    found = []
    if privileges.no_new_privileges:
        found.append("no-new-privileges")
    if privileges.seccomp is not None and privileges.seccomp.mode == "unconfined":
        found.append("seccomp=unconfined")
    if privileges.seccomp is not None and privileges.seccomp.mode == "custom":
        found.append("seccomp=" + privileges.seccomp.profile.decode())
    return tuple(found) or None


def _seconds(nanoseconds: int | None) -> int | None:
    """Whole seconds, rounded up: a grace period is never shortened."""
    return None if nanoseconds is None else -(-nanoseconds // _SECOND)


def _key(port: int, protocol: str) -> str:
    return f"{port}/{protocol or 'tcp'}"


def _extra_host(line: str) -> str:
    """`IP name` of hosts(5) as `name:IP`; aliases beyond the first name are dropped."""
    address, name, *_ = *line.split(), "", ""
    return f"{name}:{address}"
