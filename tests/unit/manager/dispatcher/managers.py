"""Several managers' dispatchers on one simulated store, and agents that only say Applied."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from agent.assignments import NOTHING, merge
from manager.control.attachments import Attachments
from manager.control.writing import Writer
from manager.dispatcher.assignments import Confidences
from manager.dispatcher.draining import Draining
from manager.dispatcher.networks import NetworkParts
from manager.dispatcher.presence import Presence
from manager.dispatcher.service import Dispatcher
from manager.dispatcher.sessions import Sessions
from manager.dispatcher.status import StatusWriter
from manager.store.barrier import Barrier
from manager.store.codec import encode
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.keys import ROOT, status_key
from manager.store.kv import Prefix, Put
from manager.store.memory import Memory
from manager.store.simulated import SimulatedEtcd
from proto import dispatcher_pb2
from proto.convert import from_message, to_message
from shoal.common.clock import SystemClock
from shoal.common.entropy import SeededIds
from shoal.common.supervise import StoppableGroup, stoppable_group
from shoal.model.assignment import Assignments, Difference, Stamp
from shoal.model.changes import Create, Group, Update
from shoal.model.ids import ClusterID, NetworkID, NodeID, TaskID
from shoal.model.objects import (
    Cluster,
    Endpoint,
    Network,
    NetworkAttachment,
    NetworkPool,
    Node,
    StoredObject,
    Task,
    TaskStatus,
)
from shoal.model.spec.service import PortConfig
from shoal.model.states import TaskState
from tests.unit.manager.allocator.clusters import network, service, task

Ports = tuple[PortConfig, ...]

CLOCK = SystemClock()


def nothing_sealed() -> Confidences:
    return Confidences({}, lambda secret: b"")


BACK = NetworkID("back")


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of several parts, not one event
            await asyncio.sleep(0.005)


class Manager:
    """One manager as far as its agents see it."""

    def __init__(self, etcd: SimulatedEtcd, name: str) -> None:
        self.node = NodeID(name)
        self.looks = 0
        self.kv = etcd.client()
        self.memory = Memory()
        self.feed = Feed(self.kv, self.memory, random.Random(1))
        self.presence = Presence(self.kv, random.Random(2))
        barrier = Barrier(self.kv, self.memory.reached)
        ids = SeededIds(int(name[1:]))
        self.sessions = Sessions(
            self.kv, self.memory, barrier, self.presence, self.node, CLOCK, ids
        )
        self.statuses = StatusWriter(self.kv, self.memory)
        parts = NetworkParts()
        self.draining = Draining(
            self.kv, self.memory, self.sessions, self.presence, parts, self.node
        )
        writer = Writer(self.kv, self.memory, barrier, ids)
        attachments = Attachments(writer, self.memory, CLOCK)
        self.dispatcher = Dispatcher(
            self.memory,
            self.sessions,
            self.statuses,
            self._confidences,
            self.draining,
            parts,
            attachments,
        )
        self.group: StoppableGroup | None = None

    def _confidences(self) -> Confidences:
        """Asked each time that what a node is to be told is put together."""
        self.looks += 1
        return nothing_sealed()

    async def run(self) -> None:
        async with stoppable_group() as self.group:
            for work in (
                self.feed,
                self.presence,
                self.sessions,
                self.statuses,
                self.draining,
            ):
                self.group.start(work.run(), name="part")

    def die(self, etcd: SimulatedEtcd) -> None:
        """Without a word: the lease ends with it."""
        lease = self.presence.lease
        assert self.group is not None
        self.kv.reachable = False
        self.sessions.end_all()
        self.group.stop()
        if lease is not None:
            etcd.expire(lease)


class Agent:
    """A host: what its kernel was brought to, which it says after a while.

    `delay` gives the seconds that this takes; an agent that is `stuck` never comes to it.
    """

    def __init__(self, name: str, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.node = NodeID(name)
        self.delay = delay
        self.stuck = asyncio.Event()
        self.stuck.set()
        self.told = NOTHING
        self.applied: Stamp | None = None
        self.stamps: list[Stamp] = []
        self.kernel = NOTHING
        self.manager: Manager | None = None
        self.heartbeat = 0.0
        self.drained_at: dict[TaskID, float] = {}
        self.on_drained: Callable[[Agent, TaskID], None] = lambda agent, task: None
        self._open = asyncio.Event()
        self._talk: Conversation | None = None

    def serves(self, which: TaskID) -> bool:
        """Whether this host would lead a new request to a task."""
        by_name = any(
            endpoint.task_id == which and endpoint.serving
            for endpoint in self.kernel.endpoints.values()
        )
        ports = self.kernel.ingress.ports
        return by_name or any(b.address == which for port in ports for b in port.backends)

    async def talk(self, manager: Manager) -> None:
        """One session, until `hang_up`."""
        self._talk = talk = Conversation(self, manager)
        await talk.run()

    async def opened(self) -> None:
        await self._open.wait()

    def hang_up(self) -> None:
        self.manager = None
        self._open.clear()
        if self._talk is not None:
            self._talk.ended.set()

    def welcomed(self, manager: Manager) -> None:
        self.manager = manager
        self._open.set()

    def hear(self, told: dispatcher_pb2.AssignmentsMessage) -> Assignments:
        self.stamps.append(from_message(told.stamp, Stamp))
        difference = from_message(told.difference, Difference)
        self.told = merge(self.told, difference, complete=told.complete)
        for which in self.told.tasks.values():
            if which.drained and which.id not in self.drained_at:
                self.drained_at[which.id] = asyncio.get_running_loop().time()
                self.on_drained(self, which.id)
        return self.told


class Conversation:
    """One session of an agent with a manager, without a wire."""

    def __init__(self, agent: Agent, manager: Manager) -> None:
        self._agent = agent
        self._manager = manager
        self._said: asyncio.Queue[dispatcher_pb2.AgentMessage | None] = asyncio.Queue()
        self._news: asyncio.Queue[tuple[int, Assignments]] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        register = dispatcher_pb2.Register()
        if self._agent.applied is not None:
            to_message(self._agent.applied, register.applied)
        self._say(register=register)
        node, manager = self._agent.node, self._manager
        talk = manager.dispatcher.converse(node, self._requests(), self._hear)
        async with stoppable_group() as group:
            group.start(self._apply(), name="apply")
            group.start(self._beat(), name="beat")
            group.start(talk, name="talk")
            await self.ended.wait()
            self._said.put_nowait(None)
            await until(lambda: manager.sessions.of(node) is None)
            group.stop()

    def _say(self, **what: Any) -> None:
        self._said.put_nowait(dispatcher_pb2.AgentMessage(**what))

    async def _requests(self) -> AsyncIterator[dispatcher_pb2.AgentMessage]:
        while (message := await self._said.get()) is not None:
            yield message

    async def _hear(self, message: dispatcher_pb2.ManagerMessage) -> None:
        if self.ended.is_set():
            return  # what a host hears of a session that it has given up
        match message.WhichOneof("said"):
            case "welcome":
                self._agent.heartbeat = message.welcome.heartbeat_ns / 1e9
                self._agent.welcomed(self._manager)
            case "assignments":
                told = message.assignments
                self._news.put_nowait((told.sequence, self._agent.hear(told)))
            case _:
                pass

    async def _apply(self) -> None:
        while True:
            sequence, told = await self._news.get()
            await asyncio.sleep(self._agent.delay())
            await self._agent.stuck.wait()
            if self.ended.is_set():
                return
            self._agent.kernel = told
            self._say(applied=dispatcher_pb2.Applied(sequence=sequence))

    async def _beat(self) -> None:
        while True:
            self._say(heartbeat=dispatcher_pb2.Heartbeat())
            await asyncio.sleep(self._agent.heartbeat or 1)


class World:
    """A store, its managers and agents, and a writer that stands for the leader."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.etcd = SimulatedEtcd(self.chance)
        self.kv = self.etcd.client()
        self.memory = Memory()
        self.ids = SeededIds(seed)
        self.managers: dict[str, Manager] = {}
        self.agents: dict[str, Agent] = {}
        self.group: StoppableGroup

    async def commit(self, *things: StoredObject, new: bool = True) -> int:
        changes = tuple(Create(one) if new else Update(one) for one in things)
        outcome = await Commit(self.kv, self.memory, self.ids).commit([Group(changes)])
        assert not outcome.clashed
        await self.memory.reached(outcome.revision)
        return outcome.revision

    async def add(self, agent: Agent, manager: str) -> None:
        self.agents[agent.node] = agent
        await self.commit(Node(id=agent.node, addr="192.0.2.1", subnet=""))
        await self.connect(agent, manager)

    async def connect(self, agent: Agent, manager: str) -> None:
        self.group.start(agent.talk(self.managers[manager]), name=agent.node)
        await agent.opened()

    async def task(self, name: str, node: str, *on: NetworkID, ports: Ports = ()) -> TaskID:
        """A running task with a place on networks, and behind ports by its own name."""
        of = service(f"of-{name}", *on, ports=ports)
        await self.commit(replace(of, endpoint=Endpoint(ports=ports)))
        made = task(of, name, node_id=NodeID(node))
        status = TaskStatus(state=TaskState.RUNNING, addresses=(name,))
        places = tuple(
            NetworkAttachment(network_id=one, addresses=(f"10.0.9.{len(name)}/24",))
            for one in on
        )
        await self.commit(replace(made, status=status, networks=places))
        return made.id

    def found(self, which: TaskID) -> Task:
        found = self.memory.task(which)
        assert found is not None
        return found

    async def desire(self, which: TaskID, state: TaskState) -> int:
        return await self.commit(replace(self.found(which), desired_state=state), new=False)

    async def end(self, which: TaskID) -> None:
        status = encode(TaskStatus(state=TaskState.SHUTDOWN))
        done = await self.kv.txn((), (Put(status_key(which).encode(), status),))
        await self.memory.reached(done.revision)

    async def written(self) -> int:
        """How many times managers have written what their sessions applied."""
        found = await self.kv.range(Prefix(f"{ROOT}applied/".encode()))
        return sum(one.version for one in found.kvs)


@asynccontextmanager
async def world(seed: int, managers: int) -> AsyncIterator[World]:
    """Managers m1, m2, ... and the network `back`."""
    made = World(seed)
    feed = Feed(made.kv, made.memory, random.Random(3))
    async with stoppable_group() as made.group:
        made.group.start(feed.run(), name="feed")
        await feed.ready()
        pool = NetworkPool(subnet="10.0.9.0/24", gateway="10.0.9.1")
        back: Network = replace(network("back"), vni=4100, pools=(pool,))
        await made.commit(Cluster(id=ClusterID("c" * 25)), back)
        for number in range(1, managers + 1):
            manager = Manager(made.etcd, f"m{number}")
            made.managers[manager.node] = manager
            await made.commit(Node(id=manager.node))
            made.group.start(manager.run(), name=manager.node)
            await manager.feed.ready()
            await until(lambda manager=manager: manager.presence.lease is not None)  # type: ignore[misc]
        yield made
        for agent in made.agents.values():
            agent.hang_up()
        made.group.stop()
