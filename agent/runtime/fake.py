"""A controller without containers: for the simulation, held to the real one's suite.

What each task's container does is scripted by its `Plan`, waited for on the loop's clock (so
virtual time works). A `FakeHost` is the host: its containers outlive the controllers, as real
ones outlive the agent.
"""

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from agent.runtime.controller import ContainerState, RuntimeFailure
from shoal.common.clock import Clock
from shoal.model.assignment import AssignedTask
from shoal.model.ids import TaskID

KILLED = 137
STOPPED = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a task's container behaves; times in seconds.

    Attributes:
        prepare_error, start_error: why the step fails; empty, and it succeeds.
        retryable: whether those failures may pass.
        runs: how long it runs before it ends by itself; None is for ever.
        exit_code: what it then ends with.
        unhealthy: its end is that of an unhealthy container.
    """

    prepare: float = 0.01
    start: float = 0.01
    stop: float = 0.01
    prepare_error: str = ""
    start_error: str = ""
    retryable: bool = False
    runs: float | None = None
    exit_code: int = 0
    unhealthy: bool = False


class FakeContainer:
    """A container that is only remembered."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.started = 0.0
        self.state = ContainerState()
        self.ends_at: float | None = None
        self.exit_code: int | None = None
        self.changed = asyncio.Event()

    def end(self, code: int) -> None:
        """It has ended."""
        if self.exit_code is None:
            self.exit_code = code
            self.changed.set()


class FakeHost:
    """The containers of one host; makes controllers (`agent.worker.Controllers`)."""

    def __init__(
        self, clock: Clock, plan: Callable[[AssignedTask], Plan] | None = None
    ) -> None:
        self._clock = clock
        self._plan = plan or (lambda _: Plan())
        self.containers: dict[TaskID, FakeContainer] = {}
        self._made = 0

    def make(self, task: AssignedTask) -> "FakeController":
        """A controller for a task; the task's container is found again."""
        return FakeController(self, task, self._plan(task), self._clock)

    def owned(self) -> Iterable[TaskID]:
        """Tasks that have a container."""
        return tuple(self.containers)

    def running(self) -> tuple[TaskID, ...]:
        """Tasks whose container runs now."""
        return tuple(
            key
            for key, found in self.containers.items()
            if found.state.started_at is not None and found.exit_code is None
        )

    def create(self, task: TaskID) -> FakeContainer:
        """The container of a task, made if there is none."""
        if task not in self.containers:
            self._made += 1
            number = self._made % 65024
            address = f"10.128.{number // 254}.{number % 254 + 1}"
            self.containers[task] = FakeContainer(address)
        return self.containers[task]

    def lose_power(self) -> None:
        """Every container ends at once."""
        for found in self.containers.values():
            if found.state.started_at is not None:
                found.end(KILLED)


class FakeController:
    """`agent.runtime.controller.Controller` on a `FakeHost`."""

    def __init__(self, host: FakeHost, task: AssignedTask, plan: Plan, clock: Clock) -> None:
        self._host = host
        self._task = task
        self._plan = plan
        self._clock = clock

    async def prepare(self) -> None:
        if self._task.id in self._host.containers:
            return
        await asyncio.sleep(self._plan.prepare)
        self._fail(self._plan.prepare_error)
        self._host.create(self._task.id)

    async def start(self) -> None:
        found = self._container()
        if found.state.started_at is not None:
            return
        await asyncio.sleep(self._plan.start)
        self._fail(self._plan.start_error)
        found.state = ContainerState(
            container_id=f"container-{self._task.id}",
            pid=1000 + len(self._host.containers),
            started_at=self._clock.now(),
            addresses=(found.address,),
            ports=tuple(
                (port.protocol or "tcp", port.target_port, port.published_port)
                for port in self._task.ports
            ),
        )
        if self._plan.runs is not None:
            found.ends_at = asyncio.get_running_loop().time() + self._plan.runs

    async def wait(self) -> None:
        found = self._container()
        while found.exit_code is None:
            try:
                async with asyncio.timeout_at(found.ends_at):
                    await found.changed.wait()
            except TimeoutError:
                found.end(self._plan.exit_code)
        if self._plan.unhealthy:
            raise RuntimeFailure("unhealthy container", exit_code=found.exit_code)
        if found.exit_code:
            raise RuntimeFailure(
                f"task: non-zero exit ({found.exit_code})", exit_code=found.exit_code
            )

    async def shutdown(self) -> None:
        found = self._host.containers.get(self._task.id)
        if found is None or found.state.started_at is None or found.exit_code is not None:
            return
        await asyncio.sleep(self._plan.stop)
        found.end(STOPPED)

    async def remove(self) -> None:
        found = self._host.containers.pop(self._task.id, None)
        if found is not None and found.state.started_at is not None:
            found.end(KILLED)

    def state(self) -> ContainerState:
        found = self._host.containers.get(self._task.id)
        if found is None:
            return ContainerState()
        return msgspec.structs.replace(found.state, exit_code=found.exit_code)

    def _container(self) -> FakeContainer:
        found = self._host.containers.get(self._task.id)
        if found is None:
            raise RuntimeFailure(f"No such container: {self._task.name}")
        return found

    def _fail(self, sentence: str) -> None:
        if sentence:
            raise RuntimeFailure(sentence, retryable=self._plan.retryable)
