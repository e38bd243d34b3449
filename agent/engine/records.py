"""What is kept of a container on disk, so that a restarted agent knows it again.

One `container.json` a container, a line a change, of which the last counts: a start changes it
three times, and a new file for each cost more than the rest of the agent's part on some file
systems. Never secrets: environment and
commands are the user's own words, files that hold secrets are mounted from elsewhere. Written
by `container`, read at start by `engine`.
"""

import errno
import os
from collections.abc import Iterator
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import field

from agent.network.desired import BRIDGE, Attachment, Endpoint, Interface, NetworkName
from shoal.model.container import (
    ContainerConfig,
    EndpointSettings,
    EngineWire,
    HostConfig,
    NetworkingConfig,
)

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]

Kind = NetworkName | Literal["host", "container", "joined"]

FILE = "container.json"
_LONG = 1 << 17  # bytes after which it is begun anew


class MountPoint(EngineWire, frozen=True, kw_only=True):
    """A mount of a container once everything about it is settled; the API shows it so."""

    type: str
    name: str = ""
    source: str = ""
    destination: str
    driver: str = ""
    mode: str = field(default_factory=str)
    rw: bool = field(name="RW", default_factory=lambda: True)
    propagation: str = field(default_factory=str)


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """A person's container on a network.

    Attributes:
        network: `bridge`, the id of a user's network, or of a cluster network; empty where none
            of that name was there when the container was made: a start looks again.
        settings: as they were asked for.
        task: stands for the container on a cluster network; empty on this host's.
        internal: of a cluster network: nothing leads out of it.
    """

    network: str
    name: str
    settings: EndpointSettings = EndpointSettings()
    task: str = ""
    in_cluster: bool = False
    internal: bool = False


class TmpfsMount(msgspec.Struct, frozen=True, kw_only=True):
    """A tmpfs of a container: where, and its mount options."""

    destination: str
    options: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container is in its life. `exit_code` is of the last run."""

    status: Status = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def running(self) -> bool:
        """A process exists: running, or paused."""
        return self.status in ("running", "paused")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A container as it is remembered.

    Attributes:
        config: merged with the image's.
        owner: the task it belongs to, empty for a person's container.
        stopped_by_hand: by a stop or kill, so that no restart policy brings it back.
        populate: destinations of fresh volumes that shall get the image's content.
        files: secrets and configs of a task, which are not among what users see as mounts.
        network: how it is on networks: as a task (`mesh`), on `bridge` alone, with the host or
            another container, or as a person asked (`joined`).
        joined: the networks a person asked for, in the order of its interfaces.
        attachments: a task's networks, in the order of its interfaces.
        files_of: the container whose hosts, hostname and resolv.conf it has, as of its last
            start; empty where it has its own.
    """

    id: str
    name: str
    created_at: datetime
    image_id: str
    config: ContainerConfig
    host_config: HostConfig
    networking: NetworkingConfig = NetworkingConfig()
    command: tuple[str, ...] = ()
    mounts: tuple[MountPoint, ...] = ()
    tmpfs: tuple[TmpfsMount, ...] = ()
    files: tuple[MountPoint, ...] = ()
    state: State = State()
    restart_count: int = 0
    stopped_by_hand: bool = False
    populate: tuple[str, ...] = ()
    network: Kind = "bridge"
    joined: tuple[Joined, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    endpoint: Endpoint | None = None
    owner: str = ""
    files_of: str = ""

    @property
    def networks(self) -> tuple[Joined, ...]:
        """The networks that a person's container is on, or will be."""
        if self.network == "bridge":
            return (Joined(network=BRIDGE, name=BRIDGE),)
        return self.joined


def save(directory: Path, record: Record) -> None:
    """Put the record on disk; a reader sees the one before or this one."""
    data = b"\n" + msgspec.json.encode(record) + b"\n"  # the first ends what was torn
    name = f"{directory}/{FILE}"
    with open(name, "ab", buffering=0, opener=_private) as file:
        size = file.tell()
        if size <= _LONG:
            _append(file, size, data)
            return
    with open(f"{name}.new", "wb", buffering=0, opener=_private) as file:
        _append(file, 0, data)
    os.rename(f"{name}.new", name)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _append(file: FileIO, size: int, data: bytes) -> None:
    """All of it or, where the disk is full, nothing."""
    if (written := file.write(data)) != len(data):
        file.truncate(size)
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written")


def load_all(directory: Path) -> Iterator[tuple[Path, Record | None]]:
    """Each container's directory and its record, None where there is no whole one."""
    if not directory.is_dir():
        return
    for each in sorted(directory.iterdir()):
        try:
            yield each, read((each / FILE).read_bytes())
        except (OSError, msgspec.DecodeError):
            yield each, None


def read(data: bytes) -> Record:
    """The last whole line, as any version wrote it: a power cut may tear the one being written.

    An endpoint used to be the one interface itself; its container lives on through an upgrade.
    """
    whole = data[: data.rfind(b"\n")].rstrip(b"\n") if b"\n" in data else data
    text = whole.rpartition(b"\n")[2]
    record = msgspec.json.decode(text, type=Record)
    if record.endpoint is None or record.endpoint.interfaces:
        return record
    old = msgspec.json.decode(text, type=_OldRecord).endpoint
    if not old.address:
        return record
    interface = Interface(
        network=old.network,
        addresses=(f"{old.address}/{old.prefix_length}",),
        gateways=(old.gateway,) if old.gateway else (),
        mac=old.mac,
    )
    endpoint = msgspec.structs.replace(record.endpoint, interfaces=(interface,))
    return msgspec.structs.replace(record, endpoint=endpoint)


class _OldEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    network: str = "none"
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    mac: str = ""


class _OldRecord(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: _OldEndpoint
