"""An agent with fake containers and real managers' dispatchers, over mutual TLS."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from typing_extensions import override

from agent.journal import Journal
from agent.line import dialled
from agent.membership import ClusterAgent
from agent.report import Reports
from agent.runtime.fake import FakeController, FakeHost, Plan
from agent.worker import Worker
from shoal.common.certificates import Role
from shoal.common.identity import CurrentIdentity
from shoal.common.supervise import stoppable_group
from shoal.model.assignment import (
    AssignedNetwork,
    AssignedTask,
    Assignments,
    IngressSet,
    ManagerAddress,
    MeshPart,
)
from shoal.model.changes import Update
from shoal.model.errors import Internal, PermissionDenied
from shoal.model.ids import NetworkID, NodeID, TaskID
from shoal.model.objects import NodeDescription, NodeReport
from shoal.model.states import TaskState
from tests.integration.agent.cluster import CLOCK, Lab, until


class Network:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.mesh = MeshPart()
        self.broken = False
        self.failures = 0
        self.ingress = IngressSet()
        self.networks: Mapping[NetworkID, AssignedNetwork] = {}

    async def set_mesh(self, mesh: MeshPart) -> None:
        if self.broken:
            self.failures += 1
            raise Internal("the network is broken")
        self.mesh = mesh

    async def set_networks(self, told: Assignments) -> None:
        self.networks = told.networks

    async def set_ingress(self, ingress: IngressSet) -> None:
        self.ingress = ingress


class Host(FakeHost):
    """One that fails unforeseen for some tasks."""

    def __init__(self) -> None:
        super().__init__(CLOCK)
        self.poisoned: set[TaskID] = set()
        self.poisons = False

    @override
    def make(self, task: AssignedTask) -> FakeController:
        if self.poisons or task.id in self.poisoned:
            raise ZeroDivisionError("seven by nothing")
        return super().make(task)


class Payloads:
    def update(self, told: Assignments) -> None: ...


class Rig:
    """A host whose agent can be ended and begun again."""

    def __init__(self, lab: Lab, state: Path) -> None:
        self.lab = lab
        self.node = NodeID(lab.ids.new())
        self.current = CurrentIdentity(lab.identity(self.node, Role.WORKER))
        self.host: FakeHost = Host()
        self.state = state
        self.network = Network()
        self.reports = Reports()
        self.hostname = "w1"
        self.seed = 5

    def report(self) -> NodeReport:
        return NodeReport(description=NodeDescription(hostname=self.hostname), addr="10.0.0.1")

    def make(self, managers: Sequence[ManagerAddress]) -> ClusterAgent:
        self.reports = Reports()
        worker = Worker(
            Journal(self.state),
            self.host,
            Payloads(),
            self.network,
            self.reports,
            CLOCK,
            random.Random(4),
        )
        return ClusterAgent(
            self.current,
            worker,
            dialled,
            managers,
            self.report,
            random.Random(self.seed),
        )

    @asynccontextmanager
    async def running(self, *managers: ManagerAddress) -> AsyncIterator[ClusterAgent]:
        agent = self.make(managers)
        await agent.restore()
        async with stoppable_group() as group:
            group.start(agent.run(), name="agent")
            yield agent
            group.stop()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab, ready = Lab(), asyncio.Event()
    # A fixture begins and ends in different tasks, which no TaskGroup allows.
    feeding = asyncio.get_running_loop().create_task(lab.feed(ready))
    await ready.wait()
    await lab.begin()
    yield lab
    feeding.cancel()
    await asyncio.wait([feeding])


@pytest.fixture
async def rig(lab: Lab, tmp_path: Path) -> Rig:
    rig = Rig(lab, tmp_path)
    await lab.add_node(rig.node)
    return rig


async def test_a_task_runs_is_reported_and_is_shut_down(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, _), rig.running(manager) as agent:
        task = await lab.add_task(rig.node)
        await until(lambda: lab.status(task).state is TaskState.RUNNING)
        status = lab.status(task)
        assert status.container is not None
        assert status.container.container_id == f"container-{task}"
        assert status.addresses
        assert rig.network.mesh.subnet == "10.128.1.0/24"
        assert agent.state().local_state == "active"
        assert agent.state().manager == manager.address
        node = lab.memory.node(rig.node)
        assert node is not None
        assert node.description is not None
        assert node.description.hostname == "w1"

        await lab.desire(task, TaskState.SHUTDOWN)
        await until(lambda: lab.status(task).state is TaskState.SHUTDOWN)
        assert rig.host.running() == ()
        assert task in rig.host.containers
        await until(lambda: rig.reports.settled)

        await lab.delete(task)
        await until(lambda: task not in rig.host.containers)
        await until(lambda: not agent.worker.statuses())


async def test_the_manager_hears_when_the_network_is_as_told(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, sessions), rig.running(manager):
        await until(lambda: sessions.of(rig.node) is not None)
        session = sessions.of(rig.node)
        assert session is not None
        await until(lambda: 0 < session.sequence == session.progress.sequence)
        rig.network.broken = True
        task = await lab.add_task(rig.node)  # that is no matter of the network
        await until(lambda: lab.status(task).state is TaskState.RUNNING)
        await until(lambda: session.sequence == session.progress.sequence)
        cluster = lab.memory.cluster()
        assert cluster is not None
        await lab.commit(Update(replace(cluster, data_path_port=4790)))
        await until(lambda: rig.network.failures > 0)
        assert session.progress.sequence < session.sequence
        rig.network.broken = False
        await until(lambda: session.progress.sequence == session.sequence)


async def test_removal_is_obeyed_and_reported(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, _), rig.running(manager):
        task = await lab.add_task(rig.node)
        await until(lambda: lab.status(task).state is TaskState.RUNNING)
        await lab.desire(task, TaskState.REMOVE)
        await until(lambda: lab.status(task).state is TaskState.SHUTDOWN)
        await until(lambda: task not in rig.host.containers)


async def test_a_failing_task_says_why(lab: Lab, rig: Rig) -> None:
    rig.host = FakeHost(CLOCK, lambda _: Plan(runs=0.05, exit_code=3))
    async with lab.manager() as (manager, _), rig.running(manager):
        task = await lab.add_task(rig.node)
        await until(lambda: lab.status(task).state is TaskState.FAILED)
        status = lab.status(task)
        assert status.err == "task: non-zero exit (3)"
        assert status.container is not None
        assert status.container.exit_code == 3


async def test_a_task_that_fails_unforeseen_keeps_no_other_waiting(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, _), rig.running(manager):
        first = await lab.add_task(rig.node)
        await until(lambda: lab.status(first).state is TaskState.RUNNING)
        host = rig.host
        assert isinstance(host, Host)
        host.poisons = True
        bad = await lab.add_task(rig.node)
        await until(lambda: lab.status(bad).message != "")
        host.poisons, host.poisoned = False, {bad}
        good = await lab.add_task(rig.node)
        await until(lambda: lab.status(good).state is TaskState.RUNNING)
        assert lab.status(bad).message == (
            "will be tried again: internal error: ZeroDivisionError('seven by nothing')"
        )
        assert lab.status(first).state is TaskState.RUNNING
        host.poisoned = set()
        await until(lambda: lab.status(bad).state is TaskState.RUNNING)


async def test_another_manager_is_found_at_once(lab: Lab, rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        second, _ = await stack.enter_async_context(lab.manager())
        ending = AsyncExitStack()
        first, _ = await ending.enter_async_context(lab.manager())
        agent = await stack.enter_async_context(rig.running(first))
        await until(lambda: len(agent.state().managers) == 2)
        task = await lab.add_task(rig.node)
        await until(lambda: lab.status(task).state is TaskState.RUNNING)
        await ending.aclose()
        begun = asyncio.get_running_loop().time()
        await until(lambda: agent.state().manager == second.address)
        assert asyncio.get_running_loop().time() - begun < 1
        assert rig.host.running() == (task,)


@pytest.mark.parametrize("seed", range(4))
async def test_a_manager_that_hangs_is_left_for_another(lab: Lab, rig: Rig, seed: int) -> None:
    """Its store lost a moment ago, it lets agents wait: longer than a node may be away."""
    rig.seed = seed
    async with lab.manager() as (hanging, _), lab.manager() as (other, _):
        lab.stores[hanging.address].reachable = False
        begun = asyncio.get_running_loop().time()
        async with rig.running(hanging, other) as agent:
            await until(lambda: agent.state().manager == other.address)
            assert asyncio.get_running_loop().time() - begun < 2
        lab.stores[hanging.address].reachable = True


async def test_a_killed_session_is_opened_again(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, sessions), rig.running(manager) as agent:
        await until(lambda: sessions.of(rig.node) is not None)
        first = sessions.of(rig.node)
        assert first is not None
        begun = asyncio.get_running_loop().time()
        first.end()
        await until(lambda: sessions.of(rig.node) not in (None, first))
        assert asyncio.get_running_loop().time() - begun < 0.5
        task = await lab.add_task(rig.node)
        await until(lambda: lab.status(task).state is TaskState.RUNNING)
        assert agent.state().error == ""


async def test_tasks_go_on_and_are_adopted_without_any_manager(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, _):
        async with rig.running(manager):
            task = await lab.add_task(rig.node)
            await until(lambda: lab.status(task).state is TaskState.RUNNING)
        assert rig.host.running() == (task,)
        pid = rig.host.containers[task].state.pid
    rig.network = Network()
    async with rig.running() as agent:
        assert agent.worker.statuses()[task].state is TaskState.RUNNING
        assert rig.network.mesh.subnet == "10.128.1.0/24"
        assert agent.state().local_state == "active"
        assert [m.address for m in agent.state().managers] == [manager.address]
        assert rig.host.containers[task].state.pid == pid
        rig.host.containers[task].end(7)  # it ends while no manager is there
        await until(lambda: agent.worker.statuses()[task].state is TaskState.FAILED)
    async with lab.manager() as (other, _):
        stored = Journal(rig.state).load()
        assert stored.statuses[task].state is TaskState.FAILED
        agent = rig.make([other])
        await agent.restore()
        agent.learn([other])
        async with stoppable_group() as group:
            group.start(agent.run(), name="agent")
            await until(lambda: lab.status(task).state is TaskState.FAILED)
            group.stop()


async def test_a_removed_node_is_told_so(lab: Lab, rig: Rig) -> None:
    stranger = Rig(lab, rig.state / "stranger")
    async with lab.manager() as (manager, _):
        agent = stranger.make([manager])
        await agent.restore()
        with pytest.raises(PermissionDenied, match="not a member"):
            await agent.run()
        assert agent.state().local_state == "error"


async def test_an_older_word_is_refused(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, sessions), rig.running(manager) as agent:
        task = await lab.add_task(rig.node)
        await until(lambda: lab.status(task).state is TaskState.RUNNING)
        applied = agent.worker.stamp
        assert applied.revision > 0
        assert sessions.of(rig.node) is not None
        assert Journal(rig.state).load().stamp == applied


async def test_a_renewed_identity_makes_a_new_connection(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, sessions), rig.running(manager):
        await until(lambda: sessions.of(rig.node) is not None)
        first = sessions.of(rig.node)
        rig.current.replace(lab.identity(rig.node, Role.WORKER))
        await until(lambda: sessions.of(rig.node) not in (None, first))


async def test_a_changed_description_is_told(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, sessions), rig.running(manager) as agent:
        await until(lambda: sessions.of(rig.node) is not None)
        rig.hostname = "renamed"
        agent.described()

        def known() -> bool:
            node = lab.memory.node(rig.node)
            told = node.description if node is not None else None
            return told is not None and told.hostname == "renamed"

        await until(known)


async def test_leaving_removes_everything(lab: Lab, rig: Rig) -> None:
    async with lab.manager() as (manager, _):
        async with rig.running(manager) as agent:
            task = await lab.add_task(rig.node)
            await until(lambda: lab.status(task).state is TaskState.RUNNING)
        await agent.leave()
    assert not rig.host.containers
    assert rig.network.mesh.subnet == ""
    assert not list(rig.state.iterdir())
