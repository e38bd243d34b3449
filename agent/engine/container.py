"""A container that the agent holds: its record, and who waits for what of it.

All changes of a record go through `change`, which writes it to disk before anybody sees it.
The lock orders start, end, and removal; signals need no lock.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.engine import records
from agent.engine.records import Record, State
from agent.health.counting import Health
from agent.runtime.runtime import Attachment

Waiter = asyncio.Future[int]


class Container:
    """One container; owned by the `Registry`, changed by `lifecycle`.

    Attributes:
        directory: what must survive a reboot: record, root file system, logs.
        bundle: what one run of it needs; a reboot empties it.
    """

    def __init__(self, record: Record, directory: Path, bundle: Path) -> None:
        self.record = record
        self.directory = directory
        self.bundle = bundle
        self.lock = (
            asyncio.Lock()
        )  # held over awaits: start, end and removal exclude each other
        self.health: Health | None = None
        self.execs: set[str] = set()
        self.delay: timedelta | None = None
        self.cancel_restart = asyncio.Event()
        self.removed = False
        self._changed = asyncio.Event()
        self._exit_waiters: set[Waiter] = set()
        self._removal_waiters: set[Waiter] = set()
        self._attachers: list[asyncio.Future[Attachment]] = []

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def state(self) -> State:
        return self.record.state

    def change(self, **fields: Any) -> None:
        """Replace fields of the record, on disk first; what changes nothing is not written."""
        record = replace(self.record, **fields)
        if record == self.record:
            return
        if not self.removed:
            records.save(self.directory, record)
        self.record = record
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def change_state(self, **fields: Any) -> None:
        """Replace fields of the record's state."""
        self.change(state=replace(self.record.state, **fields))

    def touched(self) -> None:
        """Something outside the record changed that others may wait for: its health."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def next_change(self) -> None:
        """Return after the next change of record or health."""
        await self._changed.wait()

    @contextmanager
    def exit_waiter(self) -> Iterator[Waiter]:
        """A future that gets the exit code of the next end."""
        yield from _waiter(self._exit_waiters)

    @contextmanager
    def removal_waiter(self) -> Iterator[Waiter]:
        """A future that gets the last exit code when the container is removed."""
        yield from _waiter(self._removal_waiters)

    def tell_exit(self, code: int) -> None:
        """Wake those who wait for the end."""
        _tell(self._exit_waiters, code)

    def tell_removed(self) -> None:
        """Wake everybody: nothing more comes."""
        _tell(self._exit_waiters, self.state.exit_code)
        _tell(self._removal_waiters, self.state.exit_code)
        self.fail_attachers(ConnectionResetError("the container was removed"))

    @contextmanager
    def early_attacher(self) -> Iterator["asyncio.Future[Attachment]"]:
        """A place in the queue of those who attach before the start, to miss nothing."""
        future: asyncio.Future[Attachment] = asyncio.get_running_loop().create_future()
        self._attachers.append(future)
        try:
            yield future
        finally:
            if future in self._attachers:
                self._attachers.remove(future)
            future.cancel()

    def early_attachers(self) -> list["asyncio.Future[Attachment]"]:
        """Those who wait for the start; each is handed out once."""
        waiting, self._attachers = self._attachers, []
        return [future for future in waiting if not future.done()]

    def fail_attachers(self, error: Exception) -> None:
        """There will be no start to attach to."""
        for future in self.early_attachers():
            future.set_exception(error)
            future.exception()  # whoever waits has it; nobody waiting is no surprise either


def _waiter(waiters: set[Waiter]) -> Iterator[Waiter]:
    future: Waiter = asyncio.get_running_loop().create_future()
    waiters.add(future)
    try:
        yield future
    finally:
        waiters.discard(future)
        future.cancel()


def _tell(waiters: set[Waiter], code: int) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(code)
