"""What containers wrote: reading, following and rotating the files that conmon fills.

A directory holds `log`, and `log.1`, `log.2`, ... rotated away, each older than the one before.
Following is by inotify: a reader keeps the file it reads open, so a rotation under way loses
and repeats nothing, and goes on in the file that took its place. The rotation renames and has
conmon reopen (its own size limit would throw lines away). Called by the engine.
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
    """Which lines: the last `tail` (None: all), `since` inclusive, `until` exclusive."""

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    stdout: bool = True
    stderr: bool = True


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line: RFC 3339 time with nanoseconds, stream, bytes with their newline, if any."""

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
        reader = _Reader(directory, joiner)
        stack.callback(reader.close)
        await asyncio.to_thread(reader.open)
        if query.tail is None:
            async for line in reader.all():
                yield line
        else:
            last: deque[LogLine] = deque(maxlen=query.tail)
            async for line in reader.all():
                last.append(line)
            for line in last:
                yield line
        while watch is not None and not joiner.past:
            over = ended.is_set()  # looked at first: what was written before is then read below
            async for line in reader.all():
                yield line
            if over:
                break
            await _change_or_end(watch, ended)
        for line in joiner.rest():
            yield line


class _Reader:
    """The files of one directory as one stream, whatever is rotated meanwhile."""

    def __init__(self, directory: Path, joiner: "_Joiner") -> None:
        self._directory = directory
        self._joiner = joiner
        self._older: deque[BinaryIO] = deque()
        self._current: BinaryIO | None = None

    def open(self) -> None:
        files, self._current = _open_all(self._directory)
        self._older.extend(files)

    def close(self) -> None:
        for file in [*self._older, *([self._current] if self._current is not None else [])]:
            file.close()
        self._older.clear()
        self._current = None

    async def all(self) -> AsyncIterator[LogLine]:
        """Every line up to the end of the newest file as it is now."""
        while not self._joiner.past and (lines := await asyncio.to_thread(self._next)):
            for line in lines:
                yield line

    def _next(self) -> list[LogLine]:
        while self._older:
            if lines := _block(self._older[0], self._joiner):
                return lines
            self._older.popleft().close()
        while True:
            if self._current is not None and (lines := _block(self._current, self._joiner)):
                return lines
            following = _successor(self._directory, self._current)
            if following is None:
                return []
            # What was written between the end just met and the rename is still in the old one.
            lines = _block(self._current, self._joiner) if self._current is not None else []
            if lines:
                following.close()
                return lines
            if self._current is not None:
                self._current.close()
            self._current = following


async def _change_or_end(watch: inotify.Inotify, ended: asyncio.Event) -> None:
    """Wait for the directory to change or the container to end."""
    async with asyncio.TaskGroup() as group:
        tasks = (group.create_task(watch.changes()), group.create_task(ended.wait()))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


class _Joiner:
    """Lines out of conmon's: parts are joined per stream, however they interleave."""

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

    def __init__(self, directory: Path, bundle: Path, max_size: int, max_files: int) -> None:
        self._directory = directory
        self._bundle = bundle  # where conmon's fifo is
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
            if not _reopen(self._bundle):
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
    except BrokenPipeError:
        return False  # it ended meanwhile
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
        with contextlib.ExitStack() as stack:
            listed = sorted(_rotated(directory), reverse=True)
            current = _open(directory / LOG, stack)
            opened = [_open(path, stack) for _, path in listed]
            files = [file for file in opened if file is not None]
            whole = len(files) == len(listed) and sorted(_rotated(directory)) == listed[::-1]
            if whole and _is(current, _open(directory / LOG, stack)):
                return [_kept(file) for file in files], current and _kept(current)


def _successor(directory: Path, current: BinaryIO | None) -> BinaryIO | None:
    """The file after the one being read, None while that is still the newest.

    After several rotations at once it is a rotated one: the one numbered just below ours.
    """
    while True:
        with contextlib.ExitStack() as stack:
            newest = _open(directory / LOG, stack)
            if current is not None and _is(newest, current):
                return None
            listed = _rotated(directory)
            following = newest
            for number, path in listed:
                file = _open(path, stack)
                if file is not None and _is(file, current) and number > 1:
                    following = _open(directory / f"{LOG}.{number - 1}", stack)
            still = _is(_open(directory / LOG, stack), newest)
            if still and sorted(listed) == sorted(_rotated(directory)):
                return following and _kept(following)


def _open(path: Path, stack: contextlib.ExitStack) -> BinaryIO | None:
    try:
        return stack.enter_context(path.open("rb", buffering=0))
    except FileNotFoundError:
        return None


def _kept(file: BinaryIO) -> BinaryIO:
    """The same file, no longer bound to the stack that closes the original."""
    return os.fdopen(os.dup(file.fileno()), "rb", buffering=0)


def _is(one: BinaryIO | None, other: BinaryIO | None) -> bool:
    if one is None or other is None:
        return one is other
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _block(file: BinaryIO, joiner: _Joiner) -> list[LogLine]:
    """Lines of the next blocks, until there are some; empty at the end of the file."""
    while not joiner.past and (data := file.read(_BLOCK)):
        if lines := list(joiner.lines(data)):
            return lines
    return []


def _time(raw: bytes) -> str:
    """A time of conmon's, with a local offset, as UTC with `Z`; all nine digits kept."""
    text = raw.decode(errors="replace")
    if text.endswith("+00:00"):
        return f"{text[:-6]}Z"
    whole, _, rest = text.partition(".")
    digits, offset = rest[:9], rest[9:]
    moment = datetime.fromisoformat(f"{whole}{offset}").astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{digits}Z"
