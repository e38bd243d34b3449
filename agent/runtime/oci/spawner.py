"""The thread that starts conmons, each in its directory and in conmon's cgroup.

Moving a process into a cgroup waits for the kernel, up to 5 ms a child, so it has no place on
the event loop. The working directory is this thread's own: a child begins in it, which spares
the program `env -C` (0.6 ms). Used by `conmon`; made by the driver.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from agent.runtime.oci.cgroups import Group, Hierarchies

_CLONE_FS = 0x200
_ABOVE = 64  # pipes are kept clear of the numbers the child finds them under
_libc = ctypes.CDLL(None, use_errno=True)


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What is started: its session is its own, its stdio empty but for `errors`, a file.

    Attributes:
        pipes: a descriptor here, which is closed here, and the child's number for it.
    """

    words: list[str]
    environment: Mapping[str, str]
    directory: Path
    errors: str
    pipes: Sequence[tuple[int, int]]


class Spawner:
    """Starts children in one cgroup. Its thread begins with the first of them."""

    def __init__(self, hierarchies: Hierarchies, cgroup: str) -> None:
        self._hierarchies = hierarchies
        self._cgroup = cgroup
        self._executor = ThreadPoolExecutor(1, "conmon")
        self._group: Group | None = None

    async def spawn(self, program: Program) -> int:
        """The pid of the started child. Raises `OSError`; the pipes are closed in any case."""
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(self._executor, self._spawn, program)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                child = await starting
                os.kill(child, signal.SIGKILL)
                await asyncio.to_thread(os.waitpid, child, 0)
            raise

    def close(self) -> None:
        """End the thread; what it started runs on."""
        self._executor.shutdown()
        if self._group is not None:
            self._group.close()

    def _spawn(self, program: Program) -> int:
        if self._group is None:
            if _libc.unshare(_CLONE_FS) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "unshare")
            self._group = Group(self._hierarchies, self._cgroup)
        os.chdir(program.directory)
        try:
            child = _posix_spawn(program)
        finally:
            os.chdir("/")
        self._group.take(child)
        return child


def _posix_spawn(program: Program) -> int:
    high = [
        (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE), target) for fd, target in program.pipes
    ]
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (
            os.POSIX_SPAWN_OPEN,
            2,
            program.errors,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND,
            0o600,
        ),
    ]
    actions += [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in high]
    try:
        return os.posix_spawn(
            program.words[0],
            program.words,
            program.environment,
            file_actions=actions,
            setsid=True,
        )
    finally:
        for fd, _ in [*program.pipes, *high]:
            os.close(fd)
