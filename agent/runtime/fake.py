"""A controller without containers: for the simulation, held to the real one's suite.

What each task's container does is scripted by its `Plan`, waited for on the loop's clock (so
virtual time works). A `FakeHost` is the host: its containers outlive the controllers, as real
ones outlive the agent.
"""

import asyncio
from collections.abc import Callable, Iterable
from enum import StrEnum
from ipaddress import ip_network

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


class Fate(StrEnum):
    """What became of a container."""

    STARTED = "started"
    ENDED = "ended by itself"
    STOPPING = "told to stop"
    STOPPED = "stopped"
    REMOVED = "removed"
    POWER = "lost its power"


Witness = Callable[[TaskID, Fate], None]
"""Told of each container's fate as it happens; must not raise."""


class FakeContainer:
    """A container that is only remembered."""

    def __init__(self, task: AssignedTask, address: str, witness: Witness) -> None:
        self.task = task
        self.address = address
        self.state = ContainerState()
        self.exit_code: int | None = None
        self.changed = asyncio.Event()
        self._witness = witness

    @property
    def runs(self) -> bool:
        return self.state.started_at is not None and self.exit_code is None

    def start(self, state: ContainerState) -> None:
        """It runs from now on."""
        self.state = state
        self._witness(self.task.id, Fate.STARTED)

    def stopping(self) -> None:
        """It was told to stop."""
        self._witness(self.task.id, Fate.STOPPING)

    def end(self, code: int, fate: Fate = Fate.ENDED) -> None:
        """It has ended."""
        if self.runs:
            self.exit_code = code
            self.changed.set()
            self._witness(self.task.id, fate)


class FakeHost:
    """The containers of one host; makes controllers (`agent.worker.Controllers`)."""

    def __init__(
        self,
        clock: Clock,
        plan: Callable[[AssignedTask], Plan] | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._clock = clock
        self._plan = plan or (lambda _: Plan())
        self._witness = witness or (lambda _task, _fate: None)
        self.subnet = "10.128.0.0/24"
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
        return tuple(key for key, found in self.containers.items() if found.runs)

    def create(self, task: AssignedTask) -> FakeContainer:
        """The container of a task, made if there is none."""
        if task.id not in self.containers:
            self.containers[task.id] = FakeContainer(task, self._address(), self._witness)
        return self.containers[task.id]

    def _address(self) -> str:
        """The next one of the subnet that no container has; used again as late as possible."""
        subnet = ip_network(self.subnet)
        held = {found.address for found in self.containers.values()}
        while True:
            self._made += 1
            address = str(subnet[self._made % (subnet.num_addresses - 3) + 2])
            if address not in held:
                return address

    def busy_port(self, task: AssignedTask) -> int | None:
        """A host port of the task that a running container holds."""
        held = {
            (port.protocol or "tcp", port.published_port)
            for found in self.containers.values()
            if found.runs
            for port in found.task.ports
        }
        for port in task.ports:
            if port.published_port and (port.protocol or "tcp", port.published_port) in held:
                return port.published_port
        return None

    def lose_power(self) -> None:
        """Every container ends at once."""
        for found in self.containers.values():
            found.end(KILLED, Fate.POWER)


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
        self._host.create(self._task)

    async def start(self) -> None:
        found = self._container()
        if found.state.started_at is not None:
            return
        await asyncio.sleep(self._plan.start)
        self._fail(self._plan.start_error)
        busy = self._host.busy_port(self._task)
        if busy is not None:
            raise RuntimeFailure(f"port {busy} is already allocated", retryable=True)
        found.start(
            ContainerState(
                container_id=f"container-{self._task.id}",
                pid=1000 + len(self._host.containers),
                started_at=self._clock.now(),
                addresses=(found.address,),
                ports=tuple(
                    (port.protocol or "tcp", port.target_port, port.published_port)
                    for port in self._task.ports
                ),
            )
        )
        if self._plan.runs is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self._plan.runs, found.end, self._plan.exit_code, Fate.ENDED)

    async def wait(self) -> None:
        found = self._container()
        while found.exit_code is None:
            await found.changed.wait()
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
        found.stopping()
        await asyncio.sleep(self._plan.stop)
        found.end(STOPPED, Fate.STOPPED)

    async def remove(self) -> None:
        found = self._host.containers.pop(self._task.id, None)
        if found is not None:
            found.end(KILLED, Fate.REMOVED)

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
