"""Secrets and configs of this host's tasks: files in memory, for as long as a task needs them.

They live in a tmpfs of the agent's own, a directory a task, and are bound into its container
one by one. The tmpfs outlives the agent, so a restarted one goes on with what is there; nothing
of it is ever on disk. What managers told is kept in memory only.
"""

import asyncio
import ctypes
import os
import posixpath
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from shoal.model.assignment import AssignedTask, Assignments, Payload
from shoal.model.errors import FailedPrecondition, Unavailable
from shoal.model.ids import TaskID
from shoal.model.spec.task import ReferenceFile

SECRETS = "/run/secrets"
_FLAGS = 2 | 4 | 8  # nosuid, nodev, noexec
_NO_SWAP = "mode=0700,noswap"
_PLAIN = "mode=0700"
_libc = ctypes.CDLL(None, use_errno=True)


class ProvidedFile(msgspec.Struct, frozen=True):
    """A file on this host and where the container shall see it."""

    source: str
    target: str


class _Wanted(msgspec.Struct, frozen=True):
    """One reference of a task, and how its payload is found."""

    name: str
    payload: Callable[[], Payload | None]
    file: ReferenceFile
    target: str


class Dependencies:
    """Payloads by id, and the files made of them below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._secrets: Mapping[str, Payload] = {}
        self._configs: Mapping[str, Payload] = {}
        self._tasks: frozenset[str] = frozenset()

    def update(self, told: Assignments) -> None:
        """These are all there are now; files of tasks that are told no more go."""
        self._secrets, self._configs = told.secrets, told.configs
        self._tasks = frozenset(told.tasks)
        for place in self._directory.glob("*"):
            if place.name not in self._tasks:
                shutil.rmtree(place, ignore_errors=True)

    async def provide(self, task: AssignedTask) -> tuple[ProvidedFile, ...]:
        """Have the files of a task; those that are there stay as they are.

        Raises:
            Unavailable: no manager has told them yet.
            FailedPrecondition: there is no such payload; says which and why.
        """
        wanted = tuple(self._wanted(task))
        if not wanted:
            return ()
        return await asyncio.to_thread(self._provide, task.id, wanted)

    async def withdraw(self, task: TaskID) -> None:
        """The task has ended: its files go. Idempotent."""
        place = self._directory / task
        if place.exists():
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    def _wanted(self, task: AssignedTask) -> Iterable[_Wanted]:
        for secret in task.container.secrets:
            if secret.file is not None:
                yield _Wanted(
                    f"secret {secret.secret_name}",
                    lambda key=secret.secret_id: self._secrets.get(key),  # type: ignore[misc]
                    secret.file,
                    posixpath.join(SECRETS, secret.file.name),
                )
        for config in task.container.configs:
            if config.file is not None:
                yield _Wanted(
                    f"config {config.config_name}",
                    lambda key=config.config_id: self._configs.get(key),  # type: ignore[misc]
                    config.file,
                    posixpath.join("/", config.file.name),
                )

    def _provide(self, task: str, wanted: tuple[_Wanted, ...]) -> tuple[ProvidedFile, ...]:
        place = self._directory / task
        files = [place / f"{number}" for number in range(len(wanted))]
        missing = [(f, w) for f, w in zip(files, wanted, strict=True) if not f.exists()]
        for _, each in missing:
            _check(each)
        if missing:
            _mount(self._directory)
            place.mkdir(mode=0o700, exist_ok=True)
        for file, each in missing:
            found = each.payload()
            if found is not None:
                _write(file, found.data, each.file)
        return tuple(
            ProvidedFile(str(file), each.target)
            for file, each in zip(files, wanted, strict=True)
        )


def _check(wanted: _Wanted) -> None:
    found = wanted.payload()
    if found is None:
        raise Unavailable(f"{wanted.name} has not been told to this host yet", retry_after=1.0)
    if found.error:
        raise FailedPrecondition(f"{wanted.name}: {found.error}")


def _mount(directory: Path) -> None:
    """Have the tmpfs; never swapped out where the kernel can promise that."""
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    if os.path.ismount(directory):
        return
    for options in (_NO_SWAP, _PLAIN):
        at = os.fsencode(directory)
        if _libc.mount(b"shoal", at, b"tmpfs", _FLAGS, options.encode()) == 0:
            return
    number = ctypes.get_errno()
    raise Unavailable(f"no memory for secrets at {directory}: {os.strerror(number)}")


def _write(file: Path, data: bytes, wanted: ReferenceFile) -> None:
    """The whole file appears at once, with its owner and mode."""
    fresh = file.with_name(file.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
        target.write(data)
        os.fchown(target.fileno(), int(wanted.uid or 0), int(wanted.gid or 0))
        os.fchmod(target.fileno(), wanted.mode)
    fresh.rename(file)
