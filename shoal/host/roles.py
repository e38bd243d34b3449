"""What this host has to run besides the agent, kept on disk; and the pids, for whoever looks.

`<state>/roles.json` brings manager and etcd back after a restart or a power cut, before
anybody can be asked. `<run>/pids.json` is read by `shoal sandbox` and by tests. Both are
replaced whole. Used by the supervisor only.
"""

import os
from pathlib import Path

import msgspec

from shoal.common.host_control import Pids
from shoal.model.errors import FailedPrecondition


class Etcd(msgspec.Struct, frozen=True):
    """How etcd is started: its command line, program first, and what joins the environment."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}


class Roles(msgspec.Struct, frozen=True):
    """A worker's are the defaults: neither manager nor etcd."""

    manager: bool = False
    etcd: Etcd | None = None


def load_roles(path: Path) -> Roles:
    """The roles on disk; a host that never had any is a worker."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Roles)
    except FileNotFoundError:
        return Roles()
    except msgspec.MsgspecError as error:
        raise FailedPrecondition(
            f"{path} is damaged ({error}): a manager host restores it from a backup, "
            f"a worker deletes it"
        ) from error


def save_roles(path: Path, roles: Roles) -> None:
    """On disk when this returns."""
    _replace(path, msgspec.json.encode(roles), durable=True)


def save_pids(path: Path, pids: Pids) -> None:
    _replace(path, msgspec.json.encode(pids), durable=False)


def _replace(path: Path, content: bytes, *, durable: bool) -> None:
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    fresh.replace(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
