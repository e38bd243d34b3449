"""Processes that are not our children, told apart safely: by pid and start time, by pidfd.

A pid alone may have passed on to another process while the agent was away. Called by the
driver.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import msgspec


class ProcessID(msgspec.Struct, frozen=True, kw_only=True):
    """A pid with its start time (field 22 of /proc/PID/stat): names one process of one boot."""

    pid: int
    started: int


def identify(pid: int) -> ProcessID | None:
    """The identity of a process that is there now, even as a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may itself hold blanks and brackets.
    return ProcessID(pid=pid, started=int(text.rpartition(")")[2].split()[19]))


def boot_id() -> str:
    """Changes with each boot; start times and pids mean nothing across it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Process:
    """A pidfd: waits for the end and signals without ever hitting another process."""

    def __init__(self, identity: ProcessID, fd: int) -> None:
        self.identity = identity
        self._fd = fd
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._on_end)

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        """Return when it has ended; at once if it has."""
        await self._ended.wait()

    def send(self, number: int) -> bool:
        """Signal it; False if it has ended."""
        if self._fd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Let go of it without a word to it."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_end(self) -> None:
        self._ended.set()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.identity.pid, os.WNOHANG)  # reaps it, should it be our child
        self.close()


def open_process(identity: ProcessID) -> Process | None:
    """Hold a process; None if it, or its pid, is no longer the one that was meant."""
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        return None
    if identify(identity.pid) != identity:
        os.close(fd)
        return None
    return Process(identity, fd)
