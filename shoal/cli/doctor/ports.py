"""The ports of a host: free, or held by its own daemons; else by whom."""

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning
from shoal.common.config import HostConfig
from shoal.common.host_control import Pids
from shoal.common.ports import (
    AGENT_PORT,
    MANAGER_PORTS,
    VXLAN_PORT,
    Holder,
    Port,
    holder_of,
    is_free,
)


def ports(ground: Ground) -> Iterable[Finding]:
    """Try each port; one of our own daemons may hold it."""
    ours = own_pids(ground.config)
    for port in (*MANAGER_PORTS, AGENT_PORT, VXLAN_PORT):
        number = getattr(ground.config, port.setting)
        holder = None if is_free(number, port.kind) else holder_of(number, port.kind)
        yield judge(port, number, taken=holder, ours=ours)


def judge(port: Port, number: int, *, taken: Holder | None, ours: Mapping[int, str]) -> Finding:
    """Whether a port serves its use, or can."""
    udp = port.kind == socket.SOCK_DGRAM
    name = f"{number}/{'udp' if udp else 'tcp'} ({port.use})"
    if taken is None:
        return ok(f"port {name} is free")
    if taken.pid is not None and taken.pid in ours:
        return ok(f"port {name} is held by this host's {ours[taken.pid]}")
    if taken.pid is None and udp:
        return warning(
            f"port {name} is held by the kernel: a VXLAN device, Shoal's or another's",
            f"`ip -d link show type vxlan` tells; `{port.setting}` in host.toml is another way",
        )
    return problem(
        f"port {name} is taken by {taken}",
        f"end that, or give this host another port (`{port.setting}` in host.toml)",
    )


def own_pids(config: HostConfig) -> Mapping[int, str]:
    """The host's daemons that run now, by pid."""
    try:
        written = (Path(config.run) / "pids.json").read_bytes()
        pids = msgspec.json.decode(written, type=Pids)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return {}
    named = {"host": pids.host, "agent": pids.agent, "manager": pids.manager, "etcd": pids.etcd}
    return {pid: name for name, pid in named.items() if pid and Path(f"/proc/{pid}").exists()}
