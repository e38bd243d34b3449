"""Sessions: their keys in the store live no longer than they do, however they end."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from manager.dispatcher.presence import Presence
from manager.dispatcher.sessions import Sessions
from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.memory import Memory
from manager.store.simulated import Faults, SimulatedEtcd
from shoal.common.entropy import SeededIds
from shoal.common.supervise import stoppable_group
from shoal.model.assignment import Stamp
from shoal.model.changes import Create, Group
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.ids import ClusterID, NodeID
from shoal.model.objects import Cluster, Node, NodeReport
from tests.unit.manager.dispatcher.managers import Agent, until, world
from tests.unit.shoal.common.trusted import FixedClock

pytestmark = pytest.mark.looptime

NODE = NodeID("w1")
NEVER = Stamp(incarnation=0, epoch=0, revision=0)


class Lab:
    """One manager's sessions on a simulated store."""

    def __init__(self) -> None:
        self.etcd = SimulatedEtcd(random.Random(1))
        self.memory = Memory()
        store = self.etcd.client()
        self.presence = Presence(store, random.Random(2))
        barrier = Barrier(store, self.memory.reached)
        self.sessions = Sessions(
            store,
            self.memory,
            barrier,
            self.presence,
            NodeID("m1"),
            FixedClock(),
            SeededIds(1),
        )

    @property
    def held(self) -> bool:
        """Whether the store says that the node has a session."""
        node = self.memory.node(NODE)
        return node is not None and node.session is not None

    async def become(self, cluster: Cluster) -> None:
        """The store holds this cluster, and memory knows."""
        commit = Commit(self.etcd.client(), self.memory, SeededIds(4))
        outcome = await commit.commit([Group((Create(cluster),))])
        await self.memory.reached(outcome.revision)

    async def until(self, held: bool) -> None:
        async with asyncio.timeout(10):
            while self.held is not held:  # noqa: ASYNC110 - the feed's doing
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running() -> AsyncIterator[Lab]:
    lab = Lab()
    commit = Commit(lab.etcd.client(), lab.memory, SeededIds(2))
    feed = Feed(lab.etcd.client(), lab.memory, random.Random(3))
    async with stoppable_group() as group:
        group.start(feed.run(), name="feed")
        await feed.ready()
        await commit.commit([Group((Create(Node(id=NODE)),))])
        group.start(lab.presence.run(), name="presence")
        group.start(lab.sessions.run(), name="sessions")
        async with asyncio.timeout(10):
            while lab.presence.lease is None or lab.memory.node(NODE) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield lab
        group.stop()


async def test_a_closed_session_leaves_no_key() -> None:
    async with running() as lab:
        session = await lab.sessions.register(NODE, NodeReport(), NEVER)
        await lab.until(held=True)
        lab.sessions.close(session)
        await lab.until(held=False)
        assert lab.presence.lease is not None


async def test_a_store_that_does_not_answer_is_asked_again() -> None:
    """The lease is the manager's and lives on: a key left behind would keep the node ready."""
    async with running() as lab:
        session = await lab.sessions.register(NODE, NodeReport(), NEVER)
        await lab.until(held=True)
        lab.etcd.faults = Faults(unavailable=1.0)
        lab.sessions.close(session)
        await asyncio.sleep(0.4)
        lab.etcd.faults = Faults()
        await lab.until(held=False)
        assert lab.presence.lease is not None


@pytest.mark.parametrize(
    "faults", [Faults(lost_answer=1.0), Faults(lost_request=1.0), Faults(late_request=1.0)]
)
async def test_a_registration_of_unknown_outcome_leaves_no_key(faults: Faults) -> None:
    async with running() as lab:
        lab.etcd.faults = faults
        with pytest.raises(ClusterError):
            await lab.sessions.register(NODE, NodeReport(), NEVER)
        lab.etcd.faults = Faults()
        await asyncio.sleep(3)
        assert not lab.held
        assert lab.sessions.of(NODE) is None


async def test_a_node_leaves_whatever_it_said_before_and_may_say_it_again() -> None:
    async with running() as lab:
        session = await lab.sessions.register(NODE, NodeReport(addr="10.0.0.1"), NEVER)
        for _ in range(2):
            await lab.sessions.leave(NODE)
            node = lab.memory.node(NODE)
            assert node is not None
            assert (node.left, node.addr) == (True, "10.0.0.1")
        assert session.ended.is_set()
        await lab.sessions.leave(NodeID("stranger"))
        assert lab.memory.part("shoal/describe/stranger") is None
        await lab.sessions.register(NODE, NodeReport(addr="10.0.0.1"), NEVER)
        node = lab.memory.node(NODE)
        assert node is not None
        assert not node.left


async def test_the_key_of_a_newer_session_stays() -> None:
    async with running() as lab:
        first = await lab.sessions.register(NODE, NodeReport(), NEVER)
        second = await lab.sessions.register(NODE, NodeReport(), NEVER)
        lab.sessions.close(first)
        await asyncio.sleep(3)
        assert lab.held
        assert lab.sessions.of(NODE) is second


async def test_what_was_applied_in_an_earlier_incarnation_is_not_waited_for() -> None:
    """A cluster that was forced anew starts its revisions anew."""
    async with running() as lab:
        await lab.become(Cluster(id=ClusterID("c"), incarnation=2))
        ahead = Stamp(incarnation=1, epoch=9, revision=10**6)
        async with asyncio.timeout(5):
            session = await lab.sessions.register(NODE, NodeReport(), ahead)
        assert lab.sessions.of(NODE) is session


async def test_a_manager_of_an_earlier_incarnation_serves_nobody_of_the_later() -> None:
    async with running() as lab:
        await lab.become(Cluster(id=ClusterID("c"), incarnation=1))
        later = Stamp(incarnation=2, epoch=1, revision=1)
        with pytest.raises(Unavailable, match="forced anew without it"):
            await lab.sessions.register(NODE, NodeReport(), later)


async def test_a_manager_that_knows_of_no_leader_yet_speaks_no_older_word() -> None:
    """Begun while nobody leads it knows of no epoch; the agent would refuse what it says."""
    async with world(5, 1) as made:
        agent = Agent("n1")
        await made.commit(Node(id=agent.node, addr="192.0.2.1"))
        agent.applied = Stamp(incarnation=1, epoch=7, revision=made.memory.revision)
        made.agents[agent.node] = agent
        await made.connect(agent, "m1")
        await until(lambda: bool(agent.stamps))
        assert made.managers["m1"].memory.epoch == 0
        assert agent.stamps[0] >= agent.applied
