"""What containers wrote: reading, following and rotating the files that conmon fills.

A directory holds `log`, and `log.1`, `log.2`, ... rotated away, each older than the one before.
Following is by inotify: a reader keeps the file it reads open, so a rotation under way loses and
repeats nothing, and goes on in the file that took its place. The rotation renames and has conmon
reopen (its own size limit would throw lines away). Called by the engine.
"""

import asyncio
import contextlib
import errno
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent import inotify
from shoal.model.errors import Internal

LOG = "log"
STDOUT = "stdout"
STDERR = "stderr"
_BLOCK = 256 * 1024
_WATCHED = inotify.MODIFY | inotify.CREATE | inotify.MOVED_FROM | inotify.MOVED_TO
_ROTATED = re.compile(r"log\.(\d+)")
_SETTLE = 5.0  # seconds that conmon may take to open its new file


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines: `tail` the last so many (None: all), `since` inclusive, `until` exclusive."""

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    stdout: bool = True
    stderr: bool = True


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line: RFC 3339 time with nanoseconds, stream, bytes with their newline if they had one."""

    time: str
    stream: str
    data: bytes

    @property
    def instant(self) -> datetime:
        """The time, to the microsecond."""
        whole, _, fraction = self.time.removesuffix("Z").partition(".")
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        return moment.replace(microsecond=int(fraction[:6].ljust(6, "0") or 0))


async def read(
    directory: Path, query: LogQuery, ended: asyncio.Event
) -> AsyncIterator[LogLine]:
    """The lines in order, oldest first.

    `ended` is set when the container has ended: a follower then reads what is left and stops.
    """
    joiner = _Joiner(query)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(inotify.Inotify()) if query.follow else None
        if watch is not None:
            watch.add(directory, _WATCHED)
        files, current = await asyncio.to_thread(_open_all, directory)
        for file in files:
            stack.callback(file.close)
        if current is not None:
            stack.callback(lambda: current.close() if current is not None else None)
        last: deque[LogLine] = deque(maxlen=query.tail)
        for file in [*files, *([current] if current is not None else [])]:
            while lines := await asyncio.to_thread(_block, file, joiner):
                if query.tail is None:
                    for line in lines:
                        yield line
                else:
                    last.extend(lines)
        for line in last:
            yield line
        if watch is not None and not joiner.past:
            async for line in _follow(directory, current, joiner, watch, ended):
                yield line
        for line in joiner.rest():
            yield line


async def _follow(
    directory: Path,
    current: BinaryIO | None,
    joiner: "_Joiner",
    watch: inotify.Inotify,
    ended: asyncio.Event,
) -> AsyncIterator[LogLine]:
    """Go on from where `current` was read to."""
    over = False
    try:
        while True:
            while current is not None and (lines := _block(current, joiner)):
                for line in lines:
                    yield line
                if joiner.past:
                    return
            following = _successor(directory, current)
            if following is not None:
                if current is not None:
                    # Written between the last look and the rename.
                    while lines := _block(current, joiner):
                        for line in lines:
                            yield line
                    current.close()
                current = following
                continue
            if over:
                return
            over = await _change_or_end(watch, ended)
    finally:
        if current is not None:
            current.close()


async def _change_or_end(watch: inotify.Inotify, ended: asyncio.Event) -> bool:
    """Wait for the directory to change; True once the container has ended."""
    if ended.is_set():
        return True
    async with asyncio.TaskGroup() as group:
        tasks = (group.create_task(watch.changes()), group.create_task(ended.wait()))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return ended.is_set()


class _Joiner:
    """conmon's lines -> whole lines: parts are joined per stream, however they interleave."""

    def __init__(self, query: LogQuery) -> None:
        self._wanted = {STDOUT: query.stdout, STDERR: query.stderr}
        self._since = query.since
        self._until = query.until
        self._parts: dict[str, list[bytes]] = {}
        self._times: dict[str, str] = {}
        self.tail = b""  # of a raw line that is not complete yet
        self.past = False  # a line came that is not before `until`

    def lines(self, data: bytes) -> Iterator[LogLine]:
        """The lines completed by these bytes of the file."""
        *whole, self.tail = (self.tail + data).split(b"\n")
        for raw in whole:
            line = self._line(raw)
            if line is not None:
                yield line

    def rest(self) -> Iterator[LogLine]:
        """What had no newline when the container ended."""
        for stream, parts in self._parts.items():
            line = self._chosen(self._times[stream], stream, b"".join(parts))
            if line is not None:
                yield line
        self._parts.clear()

    def _line(self, raw: bytes) -> LogLine | None:
        words = raw.split(b" ", 3)
        if len(words) < 4:
            return None  # not conmon's
        stream = words[1].decode()
        parts = self._parts.setdefault(stream, [])
        if not parts:
            self._times[stream] = _time(words[0])
        parts.append(words[3])
        if words[2] == b"P":
            return None
        del self._parts[stream]
        return self._chosen(self._times[stream], stream, b"".join(parts) + b"\n")

    def _chosen(self, time: str, stream: str, data: bytes) -> LogLine | None:
        line = LogLine(time, stream, data)
        if not self._wanted.get(stream, False):
            return None
        if self._since is not None and line.instant < self._since:
            return None
        if self._until is not None and line.instant >= self._until:
            self.past = True
            return None
        return line


class Rotator:
    """Keeps one container's log below a size: rename, reopen, drop the oldest.

    `run` waits on the file by inotify; the engine runs it for containers that have a limit.
    """

    def __init__(self, directory: Path, max_size: int, max_files: int) -> None:
        self._directory = directory
        self._max_size = max_size
        self._max_files = max(1, max_files)

    async def run(self) -> None:
        """Rotate whenever it is due, until cancelled."""
        with inotify.Inotify() as watch:
            watch.add(self._directory, inotify.CREATE | inotify.MODIFY)
            while True:
                if self._due():
                    await self.rotate()
                await watch.changes()

    async def rotate(self) -> None:
        """One rotation; returns when conmon writes to the new file, or has ended."""
        with inotify.Inotify() as watch:
            watch.add(self._directory, inotify.CREATE)
            await asyncio.to_thread(self._shift)
            if not _reopen(self._directory):
                return
            async with asyncio.timeout(_SETTLE):
                while not (self._directory / LOG).exists():
                    await watch.changes()

    def _due(self) -> bool:
        try:
            return (self._directory / LOG).stat().st_size >= self._max_size
        except FileNotFoundError:
            return False

    def _shift(self) -> None:
        kept = self._max_files - 1
        for number, path in sorted(_rotated(self._directory), reverse=True):
            if number >= kept:
                path.unlink()
            else:
                path.rename(self._directory / f"{LOG}.{number + 1}")
        newest = self._directory / f"{LOG}.1"
        (self._directory / LOG).rename(newest)
        if kept == 0:
            newest.unlink()  # conmon writes its last bytes into it and opens a new one


def _reopen(directory: Path) -> bool:
    """Have conmon open its log anew; False where there is none any more."""
    try:
        fd = os.open(directory / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:
            return False
        raise Internal(f"log of {directory} cannot be rotated: {error.strerror}") from error
    try:
        os.write(fd, b"2 0 0\n")
    finally:
        os.close(fd)
    return True


def _rotated(directory: Path) -> list[tuple[int, Path]]:
    return [
        (int(found.group(1)), path)
        for path in directory.iterdir()
        if (found := _ROTATED.fullmatch(path.name)) is not None
    ]


def _open_all(directory: Path) -> tuple[list[BinaryIO], BinaryIO | None]:
    """Rotated files, oldest first, and the current one; a set that no rotation cut in two."""
    while True:
        files: list[BinaryIO] = []
        current = _open(directory / LOG)
        for _, path in sorted(_rotated(directory), reverse=True):
            if (file := _open(path)) is not None:
                files.append(file)
        now = _open(directory / LOG)
        settled = _same(current, now)
        if now is not None:
            now.close()
        if settled:
            return files, current
        for file in [*files, *([current] if current is not None else [])]:
            file.close()


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb", buffering=0)  # type: ignore[return-value]
    except FileNotFoundError:
        return None


def _same(one: BinaryIO | None, other: BinaryIO | None) -> bool:
    if one is None or other is None:
        return one is other
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _successor(directory: Path, current: BinaryIO | None) -> BinaryIO | None:
    """The file after the one being read, None while that is still the newest.

    After several rotations at once it is a rotated one: the one numbered just below ours.
    """
    newest = _open(directory / LOG)
    if newest is None or current is None:
        return newest
    if _same(newest, current):
        newest.close()
        return None
    for number, path in _rotated(directory):
        older = _open(path)
        if older is None:
            continue
        with older:
            if _same(older, current) and number > 1:
                newest.close()
                return _open(directory / f"{LOG}.{number - 1}")
    return newest


def _block(file: BinaryIO, joiner: _Joiner) -> list[LogLine]:
    """Lines of the next blocks, until there are some; empty at the end of the file."""
    while data := file.read(_BLOCK):
        if lines := list(joiner.lines(data)):
            return lines
    return []


def _time(raw: bytes) -> str:
    """conmon's local offset form as UTC with `Z`, all nine digits kept."""
    text = raw.decode(errors="replace")
    if text.endswith("+00:00"):
        return f"{text[:-6]}Z"
    whole, _, rest = text.partition(".")
    digits, offset = rest[:9], rest[9:]
    moment = datetime.fromisoformat(f"{whole}{offset}").astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{digits}Z"
