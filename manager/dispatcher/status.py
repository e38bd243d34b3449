"""Writes what agents report of their tasks: batched, fenced by the session, never backwards.

All that came in while one write was under way goes into the next, so the batches grow with the
load and a single report waits for nothing. A report is written only while the session that
brought it still is the node's (its key has the revision we wrote) and the task is there; it is
acknowledged once it is stored or known to be of no use.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
import structlog

from manager.store.codec import encode
from manager.store.commit import Prepared, write
from manager.store.keys import object_key, session_key, status_key
from manager.store.kv import KV, ModRevisionIs, Put
from manager.store.memory import Memory
from manager.store.mutation import attempt
from shoal.model.errors import Unavailable
from shoal.model.ids import NodeID, TaskID
from shoal.model.objects import TaskStatus

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.2


class Report(msgspec.Struct, frozen=True):
    """One task's status from one session, whose key was written at `session_revision`."""

    node: NodeID
    session_revision: int
    task: TaskID
    status: TaskStatus


class _Waiting(msgspec.Struct):
    reports: Sequence[Report]
    done: asyncio.Future[None]


class StatusWriter:
    """Takes reports from all sessions of this manager."""

    def __init__(self, kv: KV, memory: Memory) -> None:
        self._send = partial(attempt, kv)
        self._memory = memory
        self._waiting: list[_Waiting] = []
        self._woken = asyncio.Event()

    async def store(self, reports: Sequence[Report]) -> None:
        """Return when all reports are stored or refused for good."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(reports, done))
        self._woken.set()
        await done

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            batch, self._waiting = self._waiting, []
            await self._write([report for one in batch for report in one.reports])
            for one in batch:
                if not one.done.done():
                    one.done.set_result(None)

    async def _write(self, reports: list[Report]) -> None:
        left = self._newest(reports)
        while left:
            prepared = [self._prepare(i, report) for i, report in enumerate(left)]
            usable = [one for one in prepared if one is not None]
            if not usable:
                return
            try:
                outcome = await write(self._send, (), usable)
            except Unavailable as error:
                _log.warning("statuses not stored yet", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._memory.reached(outcome.revision)
            left = [left[i] for i in sorted(outcome.clashed)]

    def _newest(self, reports: list[Report]) -> list[Report]:
        """The last report of each task: an agent sends them in order."""
        return list({report.task: report for report in reports}.values())

    def _prepare(self, position: int, report: Report) -> Prepared | None:
        """The write of one report, or None where it is of no use (any more)."""
        task = self._memory.task(report.task)
        node = self._memory.node(report.node)
        session = self._memory.part(session_key(report.node))
        if task is None or node is None or task.node_id != report.node:
            return None
        known = self._memory.revision >= report.session_revision
        if known and (session is None or session.revision != report.session_revision):
            return None
        if report.status.state < task.status.state or report.status == task.status:
            return None
        guard = session_key(report.node).encode()
        key = status_key(report.task)
        stored = self._memory.part(key)
        return Prepared(
            (position,),
            [
                ModRevisionIs(guard, report.session_revision),
                ModRevisionIs(object_key(task).encode(), task.guard),
                # A write given up and done late must not put an older report over a newer one.
                ModRevisionIs(key.encode(), stored.revision if stored is not None else 0),
            ],
            [Put(key.encode(), encode(report.status))],
        )
