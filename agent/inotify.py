"""inotify for the agent's event loop: wake when a directory or file changes, never poll.

The kernel adapter alone; what a change means is the caller's. Used by `agent.logs`.
"""

import asyncio
import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Self

import msgspec

MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_HEADER = struct.Struct("iIII")
_BUFFER = 65536
_libc = ctypes.CDLL(None, use_errno=True)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One event: which watch, what, and the name inside a watched directory."""

    watch: int
    mask: int
    name: str


class Inotify:
    """A set of watches that wakes one waiting coroutine; close it when done (`with`)."""

    def __init__(self) -> None:
        self._fd = _check(_libc.inotify_init1(_FLAGS), "inotify")
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._loop.add_reader(self._fd, self._changed.set)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, path: Path, mask: int) -> int:
        """Watch a path; raises `OSError` where it does not exist."""
        return _check(
            _libc.inotify_add_watch(self._fd, os.fsencode(path), mask), os.fspath(path)
        )

    async def changes(self) -> list[Change]:
        """Wait for events and return all that are there."""
        while True:
            found = self.pending()
            if found:
                return found
            self._changed.clear()
            await self._changed.wait()

    def pending(self) -> list[Change]:
        """The events that are there now, without waiting."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        found: list[Change] = []
        at = 0
        while at < len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, at)
            name = data[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0")
            found.append(Change(watch=watch, mask=mask, name=os.fsdecode(name)))
            at += _HEADER.size + length
        return found

    def wake(self) -> None:
        """Make a waiting `changes` look again (it returns only if there is something)."""
        self._changed.set()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        hint = ": raise fs.inotify.max_user_instances" if number == errno.EMFILE else ""
        raise OSError(number, os.strerror(number) + hint, what)
    return result
