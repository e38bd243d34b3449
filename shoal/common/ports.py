"""Who holds a port of this machine: for errors that name it. Called by `doctor` and at init."""

import os
import socket
from pathlib import Path

import msgspec
from typing_extensions import override

_LISTEN = "0A"
_TABLES: dict[int, tuple[str, str]] = {
    socket.SOCK_STREAM: ("tcp", "tcp6"),
    socket.SOCK_DGRAM: ("udp", "udp6"),
}


class Holder(msgspec.Struct, frozen=True):
    """The process behind a port; without a pid it is nobody's that can be seen from here."""

    pid: int | None = None
    name: str = ""

    @override
    def __str__(self) -> str:
        if self.pid is None:
            return "a process that cannot be seen from here"
        return f"{self.name or 'a process'} (pid {self.pid})"


def holder_of(port: int, kind: int = socket.SOCK_STREAM) -> Holder:
    """Who listens on the port in this network namespace."""
    inodes = {
        fields[9]
        for table in _TABLES[kind]
        for fields in _rows(Path("/proc/net") / table)
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
