"""One task on this host: asks the machine, does the step by a controller, reports.

One coroutine a task, started by `agent.worker`. A new desired state interrupts a step that it
makes pointless (a pull, the wait for the end), and only then. Trouble stays with its task: an
unforeseen error becomes the task's failure, logged with its trace.
"""

import asyncio
import random
from collections.abc import Callable, Iterator

import structlog

from agent.runtime.controller import Controller, RuntimeFailure
from agent.task import machine
from agent.task.machine import Outcome, Step
from shoal.common.backoff import Backoff
from shoal.common.clock import Clock
from shoal.model.assignment import AssignedTask
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.ids import TaskID
from shoal.model.objects import TaskStatus
from shoal.model.states import TaskState

_log = structlog.get_logger(__name__)

DRAIN_SECONDS = 3.0
"""So long a task that is to stop waits for the word that nobody asks it any more."""
RETRIES = Backoff(first=0.25, cap=30.0)

Report = Callable[[TaskID, TaskStatus], None]


class TaskManager:
    """Drives one task from what it is to what it shall be.

    `status` is the last known one, from the journal, or that of a task just accepted.
    """

    def __init__(
        self,
        task: AssignedTask,
        status: TaskStatus,
        controller: Controller,
        report: Report,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._task = task
        self._status = status
        self._controller = controller
        self._report = report
        self._clock = clock
        self._chance = chance
        self._changed = asyncio.Event()

    @property
    def task(self) -> AssignedTask:
        return self._task

    @property
    def status(self) -> TaskStatus:
        return self._status

    def update(self, task: AssignedTask) -> None:
        """Take a newer assignment; one with a lower desired state is ignored."""
        if task.desired_state >= self._task.desired_state:
            self._task = task
            self._changed.set()

    async def run(self) -> None:
        """Return when the task was removed from this host."""
        delays: Iterator[float] = iter(())
        delayed: Step | None = None
        while True:
            step = self._step()
            if step is Step.NOTHING:
                await self._change(step)
                continue
            self._set(machine.begin(self._status, step, self._clock.now()))
            outcome = await self._attempt(step)
            if outcome is None:
                continue
            self._set(machine.settle(self._status, step, outcome, self._clock.now()))
            if step is Step.REMOVE and not outcome.error:
                return
            if self._step() is not step:
                continue
            if delayed is not step:
                delays, delayed = RETRIES.delays(self._chance), step
            await self._pause(step, next(delays))

    def _step(self) -> Step:
        return machine.step(self._task.desired_state, self._status.state)

    def _set(self, status: TaskStatus) -> None:
        if status == self._status:
            return
        if status.state is not self._status.state:
            _log.info(
                "task",
                task=self._task.id,
                service=self._task.service_name,
                state=status.state.api_name,
                error=status.err or None,
            )
        self._status = status
        self._report(self._task.id, status)

    async def _change(self, step: Step) -> None:
        """Return when another step is due."""
        while self._step() is step:
            self._changed.clear()
            await self._changed.wait()

    async def _pause(self, step: Step, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._change(step)
        except TimeoutError:
            return

    async def _attempt(self, step: Step) -> Outcome | None:
        """Do a step; None when it was interrupted because another one is due."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._do(step), name=f"{step} {self._task.id}")
            watch = group.create_task(self._interrupt(step, work), name="interrupt")
            work.add_done_callback(lambda _: watch.cancel())
        return None if work.cancelled() else work.result()

    async def _interrupt(self, step: Step, work: "asyncio.Task[Outcome]") -> None:
        await self._change(step)
        work.cancel()

    async def _do(self, step: Step) -> Outcome:
        error, retryable = "", False
        try:
            await self._call(step)
        except RuntimeFailure as failure:
            error, retryable = str(failure), failure.retryable
        except ClusterError as failure:
            error, retryable = str(failure), isinstance(failure, Unavailable)
        except Exception as failure:  # noqa: BLE001 - trouble of one task must not end the rest
            _log.error("step failed", task=self._task.id, step=step.value, exc_info=failure)
            error = f"internal error in step {step}: {failure!r}"
        return Outcome(error=error, retryable=retryable, seen=self._controller.state())

    async def _drain(self) -> None:
        """Wait until no host sends it requests any more, as far as it can have had any."""
        if self._status.state is not TaskState.RUNNING:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._task.drained:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            _log.warning("not drained in time", task=self._task.id, seconds=DRAIN_SECONDS)

    async def _call(self, step: Step) -> None:
        match step:
            case Step.PREPARE:
                await self._controller.prepare()
            case Step.START:
                await self._controller.start()
            case Step.WAIT:
                await self._controller.wait()
            case Step.STOP:
                await self._drain()
                await self._controller.shutdown()
            case Step.REMOVE:
                await self._controller.remove()
            case Step.NOTHING:
                return
