"""The only control loop: wake, decide, commit, wait. It knows no decider and no store by name.

A pass drains the dirty keys through the rows of the table in order, over a draft, so that a
later decider sees what an earlier one has just made, and writes everything at once. A pass
begins when memory has reached the revision of the last commit; a clash throws the draft away
and keeps the clashing keys dirty. Delays are a decision's `wake_at`, never a sleep in a
decider, so a new leader loses nothing: it begins with every key dirty.

Run by `manager.leader` while this manager leads; cancelled when it no longer does.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from manager.store.commit import Outcome
from manager.store.draft import Draft
from manager.store.memory import Memory
from manager.view import View
from shoal.common.clock import Clock
from shoal.model.changes import Decision, Event, Group
from shoal.model.errors import Unavailable
from shoal.model.ids import IdSource

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.2


class Row(msgspec.Struct, frozen=True):
    """One decider: what wakes it, with which key, and every key it would look at afresh.

    `wakes` gets one event and the view after it.
    """

    name: str
    wakes: Callable[[Event, View], Iterable[str]]
    all_keys: Callable[[View], Iterable[str]]
    decide: Callable[[View, str, datetime, IdSource], Decision]


class Committer(Protocol):
    """Writes groups guarded by the versions they were decided on and by the leader's epoch."""

    async def commit(self, groups: Sequence[Group]) -> Outcome:
        """Write; raises `Unavailable` where not everything is known to be written."""
        ...


class ControlLoop:
    """Runs the rows of a table until cancelled."""

    def __init__(
        self,
        table: Sequence[Row],
        memory: Memory,
        committer: Committer,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._table = tuple(table)
        self._memory = memory
        self._committer = committer
        self._clock = clock
        self._ids = ids
        self._dirty: tuple[dict[str, None], ...] = tuple({} for _ in self._table)
        self._wakes: list[tuple[datetime, int, str]] = []
        self._woken = asyncio.Event()
        self._barren = 0

    async def run(self) -> None:
        """Decide until cancelled."""
        stop_listening = self._memory.listen(self._on_events)
        try:
            for dirty, row in zip(self._dirty, self._table, strict=True):
                dirty.update(dict.fromkeys(row.all_keys(self._memory)))
            self._woken.set()
            while True:
                await self._wait()
                await self._pass()
        finally:
            stop_listening()

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self._mark(event, self._memory, first=0)
        self._woken.set()

    def _mark(self, event: Event, view: View, *, first: int) -> None:
        for position in range(first, len(self._table)):
            for key in self._table[position].wakes(event, view):
                self._dirty[position][key] = None

    async def _wait(self) -> None:
        """Until something is dirty or the earliest wake is due."""
        while True:
            now = self._clock.now()
            while self._wakes and self._wakes[0][0] <= now:
                _, position, key = heapq.heappop(self._wakes)
                self._dirty[position][key] = None
            if any(self._dirty):
                return
            self._woken.clear()
            delay = (self._wakes[0][0] - now).total_seconds() if self._wakes else None
            try:
                async with asyncio.timeout(delay):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _pass(self) -> None:
        groups, origins, woken = self._decide()
        self._woken.clear()
        if not groups:
            return
        try:
            outcome = await self._committer.commit(groups)
        except Unavailable as error:
            _log.warning("commit not known to be written", reason=str(error))
            self._redo(woken)
            await asyncio.sleep(RETRY_SECONDS)
            return
        for position in sorted(outcome.clashed):
            row, key = origins[position]
            self._dirty[row][key] = None
        if outcome.clashed:
            _log.info("groups clashed", clashed=len(outcome.clashed), groups=len(groups))
        await self._memory.reached(outcome.revision)
        await self._breathe(barren=len(outcome.clashed) == len(groups))

    async def _breathe(self, *, barren: bool) -> None:
        """Pause where nothing is written time after time, as by a leader that is none any more.

        Such a one has often not heard of it yet, and would ask the store without a pause.
        """
        self._barren = self._barren + 1 if barren else 0
        if self._barren > 1:
            await asyncio.sleep(RETRY_SECONDS)

    def _redo(self, keys: Iterable[tuple[int, str]]) -> None:
        for position, key in keys:
            self._dirty[position][key] = None

    def _decide(self) -> tuple[list[Group], list[tuple[int, str]], list[tuple[int, str]]]:
        """Groups, the (row, key) of each, and all (row, key) that were looked at."""
        draft = Draft(self._memory)
        now = self._clock.now()
        groups: list[Group] = []
        origins: list[tuple[int, str]] = []
        looked: list[tuple[int, str]] = []
        for position, row in enumerate(self._table):
            dirty = self._dirty[position]
            while dirty:
                key = next(iter(dirty))
                del dirty[key]
                looked.append((position, key))
                decision = row.decide(draft, key, now, self._ids)
                if decision.wake_at is not None:
                    heapq.heappush(self._wakes, (decision.wake_at, position, key))
                for group in decision.groups:
                    groups.append(group)
                    origins.append((position, key))
                    for event in draft.apply(group.changes):
                        self._mark(event, draft, first=position + 1)
                    _log.info("decided", row=row.name, key=key, reason=group.reason)
        return groups, origins, looked
