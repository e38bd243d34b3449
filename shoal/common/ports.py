"""The ports of a host: what each is for, whether it is free, and who holds it if not.

The agent asks before it enters a cluster, so that the error names the port; `shoal doctor` asks
at any time.
"""

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
from typing_extensions import override

from shoal.common.config import HostConfig
from shoal.model.errors import Unavailable

_LISTEN = "0A"
_TABLES: dict[int, tuple[str, str]] = {
    socket.SOCK_STREAM: ("tcp", "tcp6"),
    socket.SOCK_DGRAM: ("udp", "udp6"),
}


class Port(NamedTuple):
    """A port by its setting in `HostConfig`."""

    setting: str
    use: str
    kind: int = socket.SOCK_STREAM


AGENT_PORT = Port("agent_port", "the agents' Engine API")
MANAGER_PORTS = (
    Port("port", "managers' gRPC"),
    Port("join_port", "joining hosts"),
    Port("etcd_port", "etcd's peers"),
)
VXLAN_PORT = Port("vxlan_port", "VXLAN", socket.SOCK_DGRAM)


class Holder(msgspec.Struct, frozen=True):
    """The process behind a port; without a pid it is nobody's that can be seen from here."""

    pid: int | None = None
    name: str = ""

    @override
    def __str__(self) -> str:
        if self.pid is None:
            return "a process that cannot be seen from here"
        return f"{self.name or 'a process'} (pid {self.pid})"


def check_free(config: HostConfig, ports: Iterable[Port]) -> None:
    """Unavailable, with port and holder, unless all are free or this process's own."""
    for port in ports:
        number = getattr(config, port.setting)
        if is_free(number, port.kind):
            continue
        holder = holder_of(number, port.kind)
        if holder.pid != os.getpid():
            raise Unavailable(
                f"port {number}/tcp ({port.use}) is taken by {holder}: end that, or give this "
                f"host another port (`{port.setting}` in host.toml)"
            )


def is_free(number: int, kind: int) -> bool:
    """Whether somebody could listen on it."""
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
            if kind == socket.SOCK_STREAM:
                probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def holder_of(port: int, kind: int = socket.SOCK_STREAM) -> Holder:
    """Who listens on the port in this network namespace."""
    inodes = {
        fields[9]
        for table in _TABLES[kind]
        for fields in _rows(Path("/proc/thread-self/net") / table)
        if int(fields[1].rpartition(":")[2], 16) == port
        and (kind == socket.SOCK_DGRAM or fields[3] == _LISTEN)
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _has(entry / "fd", wanted):
            return Holder(int(entry.name), _name(entry))
    return Holder()


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()[1:]]
    except FileNotFoundError:
        return []


def _has(directory: Path, wanted: set[str]) -> bool:
    try:
        return any(_target(directory / name) in wanted for name in os.listdir(directory))
    except OSError:  # ended meanwhile, or not ours to look at
        return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""
