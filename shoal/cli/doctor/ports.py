"""The ports of a host: free, or held by its own daemons; else by whom."""

import errno
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning
from shoal.common.config import HostConfig
from shoal.common.host_control import Pids
from shoal.common.ports import Holder, holder_of

_SETTINGS = (
    ("port", socket.SOCK_STREAM, "managers' gRPC"),
    ("join_port", socket.SOCK_STREAM, "joining hosts"),
    ("etcd_port", socket.SOCK_STREAM, "etcd's peers"),
    ("agent_port", socket.SOCK_STREAM, "the agents' Engine API"),
    ("vxlan_port", socket.SOCK_DGRAM, "VXLAN"),
)


def ports(ground: Ground) -> Iterable[Finding]:
    """Try each port; one of our own daemons may hold it."""
    ours = own_pids(ground.config)
    for setting, kind, use in _SETTINGS:
        number = getattr(ground.config, setting)
        holder = None if _is_free(number, kind) else holder_of(number, kind)
        yield judge(setting, number, use, taken=holder, ours=ours, kind=kind)


def judge(
    setting: str,
    number: int,
    use: str,
    *,
    taken: Holder | None,
    ours: Mapping[int, str],
    kind: int = socket.SOCK_STREAM,
) -> Finding:
    """Whether a port serves its use, or can."""
    name = f"{number}/{'udp' if kind == socket.SOCK_DGRAM else 'tcp'}"
    if taken is None:
        return ok(f"port {name} ({use}) is free")
    if taken.pid is not None and taken.pid in ours:
        return ok(f"port {name} ({use}) is held by this host's {ours[taken.pid]}")
    if taken.pid is None and kind == socket.SOCK_DGRAM:
        return warning(
            f"port {name} ({use}) is held by the kernel: a VXLAN device, Shoal's or another's",
            f"`ip -d link show type vxlan` tells; `{setting}` in host.toml takes another port",
        )
    return problem(
        f"port {name} ({use}) is taken by {taken}",
        f"end that, or give this host another port (`{setting}` in host.toml)",
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


def _is_free(number: int, kind: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True
