"""A cell whose deciders run, and agents that only say what their tasks have come to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from manager.loops.loop import ControlLoop
from manager.loops.table import TABLE
from manager.store import keys
from manager.store.codec import encode
from manager.store.commit import Commit
from manager.store.kv import Put
from shoal.common.entropy import SeededIds, SystemIds
from shoal.model.objects import Task, TaskStatus
from shoal.model.states import TaskState
from tests.unit.manager.api.serving import Cell

SECONDS = 5.0
ROWS = tuple(row for row in TABLE if row.name != "node health")
"""Nodes here have no agents and are well all the same."""


@asynccontextmanager
async def deciding(cell: Cell) -> AsyncIterator[None]:
    """The leader's loop, while this lasts."""
    commit = Commit(cell.kv, cell.memory, SystemIds())
    loop = ControlLoop(ROWS, cell.memory, commit, cell.clock, SeededIds(9))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(loop.run())
        yield
        running.cancel()


async def until(cell: Cell, holds: Callable[[], bool]) -> None:
    """Return when it holds; looked at whenever memory changes."""
    changed = asyncio.Event()
    stop = cell.memory.listen(lambda _: changed.set())
    try:
        async with asyncio.timeout(SECONDS):
            while not holds():
                await changed.wait()
                changed.clear()
    finally:
        stop()


async def report(cell: Cell, task: Task, state: TaskState) -> None:
    """What the task's agent would write."""
    status = TaskStatus(state=state, timestamp=cell.clock.now())
    await cell.kv.txn((), (Put(keys.status_key(task.id).encode(), encode(status)),))
    await until(cell, lambda: _state(cell, task) >= state)


def _state(cell: Cell, task: Task) -> TaskState:
    found = cell.memory.task(task.id)
    return found.status.state if found is not None else TaskState.ORPHANED


async def assigned(cell: Cell, name: str, count: int) -> list[Task]:
    """The tasks of a service that are meant to run, once so many have a node."""

    def found() -> list[Task]:
        service = cell.memory.service_named(name)
        if service is None:
            return []
        return [
            task
            for task in cell.memory.tasks_of_service(service.id)
            if task.wanted and not task.ended and task.status.state >= TaskState.ASSIGNED
        ]

    await until(cell, lambda: len(found()) == count)
    return found()
