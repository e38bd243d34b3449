"""A task that is to stop waits until no host sends it requests any more, but not for ever."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from agent.runtime.fake import FakeHost
from agent.task import machine
from agent.task.manager import DRAIN_SECONDS, TaskManager
from shoal.common.clock import SystemClock
from shoal.model.assignment import AssignedTask
from shoal.model.ids import ServiceID, TaskID
from shoal.model.objects import TaskStatus
from shoal.model.states import TaskState

pytestmark = pytest.mark.looptime

TASK = AssignedTask(
    id=TaskID("t"), service_id=ServiceID("s"), service_name="web", name="web.1.t"
)
STOPPING = replace(TASK, desired_state=TaskState.SHUTDOWN)


class Running:
    """A task manager at work, and when its task came to which state."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.at: dict[TaskState, float] = {}
        self.manager = TaskManager(
            TASK,
            machine.accepted(clock.now()),
            FakeHost(clock).make(TASK),
            self._report,
            clock,
            random.Random(1),
        )

    def _report(self, task: TaskID, status: TaskStatus) -> None:
        self.at.setdefault(status.state, asyncio.get_running_loop().time())

    async def reach(self, state: TaskState) -> float:
        async with asyncio.timeout(60):
            while state not in self.at:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
        return self.at[state]


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    made = Running()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.manager.run())
        yield made
        task.cancel()


async def test_one_that_is_drained_stops_at_once(running: Running) -> None:
    begun = await running.reach(TaskState.RUNNING)
    running.manager.update(replace(STOPPING, drained=True))
    assert await running.reach(TaskState.SHUTDOWN) - begun < 0.1


async def test_one_that_is_not_stops_when_it_is(running: Running) -> None:
    begun = await running.reach(TaskState.RUNNING)
    running.manager.update(STOPPING)
    await asyncio.sleep(1)
    assert TaskState.SHUTDOWN not in running.at
    running.manager.update(replace(STOPPING, drained=True))
    assert 1 <= await running.reach(TaskState.SHUTDOWN) - begun < 1.1


async def test_it_waits_no_longer_than_that(running: Running) -> None:
    begun = await running.reach(TaskState.RUNNING)
    running.manager.update(STOPPING)
    waited = await running.reach(TaskState.SHUTDOWN) - begun
    assert DRAIN_SECONDS <= waited < DRAIN_SECONDS + 0.1


async def test_one_that_does_not_run_is_not_waited_for(running: Running) -> None:
    begun = await running.reach(TaskState.PREPARING)
    running.manager.update(STOPPING)
    assert await running.reach(TaskState.SHUTDOWN) - begun < 0.1
