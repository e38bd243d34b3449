"""The only control loop: wake, decide, commit, wait. It knows no decider and no store by name.

A pass drains the dirty keys through the rows of the table in order, over a draft, so that a
later decider sees what an earlier one has just made, and writes everything at once. A pass
begins when memory has reached the revision of the last commit; a clash throws the draft away
and keeps the clashing keys dirty. Delays are a decision's `wake_at`, never a sleep in a
decider, so a new leader loses nothing: it begins with every key dirty.

A decider that raises on a key, or decides what cannot be written, fails for that key alone
(`troubles`): it is logged, said where the object has a place for it, and asked again later.

Run by `manager.leader` while this manager leads; cancelled when it no longer does.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from manager.loops.troubles import NO_PLACE, Place, Troubles, said_of, sentence_of
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

    `wakes` gets one event and the view after it; `place` is where users read that it fails.
    """

    name: str
    wakes: Callable[[Event, View], Iterable[str]]
    all_keys: Callable[[View], Iterable[str]]
    decide: Callable[[View, str, datetime, IdSource], Decision]
    place: Place = NO_PLACE


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
        self._troubles = Troubles()

    async def run(self) -> None:
        """Decide until cancelled."""
        stop_listening = self._memory.listen(self._on_events)
        try:
            for position, row in enumerate(self._table):
                self._dirty[position].update(dict.fromkeys(row.all_keys(self._memory)))
                for key in row.place.said(self._memory):
                    self._troubles.inherit(position, key)
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
            self._dirty[position].update(dict.fromkeys(self._woken_by(position, event, view)))

    def _woken_by(self, position: int, event: Event, view: View) -> Sequence[str]:
        """The keys that an event wakes; all of them where that cannot be told."""
        row = self._table[position]
        try:
            return tuple(row.wakes(event, view))
        except Exception as error:  # noqa: BLE001 - trouble of one object stays with it
            _log.error("wakes failed", row=row.name, about=event.object.id, exc_info=error)
            return tuple(row.all_keys(view))

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
        except Exception as error:  # noqa: BLE001 - trouble of one object stays with it
            _log.warning("commit failed: each key by itself", reason=repr(error))
            await self._commit_apart(groups, origins)
            return
        for position in sorted(outcome.clashed):
            row, key = origins[position]
            self._dirty[row][key] = None
        if outcome.clashed:
            _log.info("groups clashed", clashed=len(outcome.clashed), groups=len(groups))
        await self._memory.reached(outcome.revision)
        await self._breathe(barren=len(outcome.clashed) == len(groups))

    async def _commit_apart(
        self, groups: Sequence[Group], origins: Sequence[tuple[int, str]]
    ) -> None:
        """One of the groups cannot be written: find its key, and write those of the others."""
        for origin in dict.fromkeys(origins):
            own = [group for group, of in zip(groups, origins, strict=True) if of == origin]
            try:
                outcome = await self._committer.commit(own)
            except Unavailable as error:
                _log.warning("commit not known to be written", reason=str(error))
                self._redo([origin])
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - trouble of one object stays with it
                self._failed(origin, self._clock.now(), error)
            else:
                if outcome.clashed:
                    self._redo([origin])
                await self._memory.reached(outcome.revision)

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
                decision = self._ask((position, key), draft, now)
                if decision.wake_at is not None:
                    heapq.heappush(self._wakes, (decision.wake_at, position, key))
                for group in decision.groups:
                    groups.append(group)
                    origins.append((position, key))
                    for event in draft.apply(group.changes):
                        self._mark(event, draft, first=position + 1)
                    _log.info("decided", row=row.name, key=key, reason=group.reason)
        return groups, origins, looked

    def _ask(self, of: tuple[int, str], draft: Draft, now: datetime) -> Decision:
        """What a row decides on a key; where it raises, that this is said, if anything."""
        position, key = of
        row = self._table[position]
        try:
            decision = row.decide(draft, key, now, self._ids)
            for failure in decision.failures:
                self._failed(of, now, failure.error, about=failure.about)
            if decision.failures or not self._troubles.sound(position, key):
                return decision
            groups = (*decision.groups, *row.place.say(draft, key, "", now))
            return Decision(groups=groups, wake_at=decision.wake_at)
        except Exception as error:  # noqa: BLE001 - trouble of one object stays with it
            self._failed(of, now, error)
            sentence = sentence_of(row.name, error)
            return Decision(groups=said_of(row.place, draft, key, sentence, now))

    def _failed(
        self, of: tuple[int, str], now: datetime, error: Exception, *, about: str = ""
    ) -> None:
        """Log it, and ask again in a while."""
        position, key = of
        wake = self._troubles.failed(position, key, now)
        if wake is None:
            return  # something woke it before its time: that is arranged, and logged, already
        heapq.heappush(self._wakes, (wake, position, key))
        name = self._table[position].name
        _log.error("decider failed", row=name, key=about or key, again=wake, exc_info=error)
