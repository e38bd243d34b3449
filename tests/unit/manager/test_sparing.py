"""A host that refuses connections to its agent lives: its daemons' restart is waited for."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from manager.loops.loop import ControlLoop
from manager.loops.table import TABLE
from manager.sparing import Sparing
from manager.store.codec import encode
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.keys import LEADER_KEY, describe_key, session_key
from manager.store.kv import DeleteRange, Put
from manager.store.memory import Memory
from manager.store.simulated import SimulatedEtcd
from shoal.common.entropy import SeededIds
from shoal.common.supervise import stoppable_group
from shoal.model.changes import Create, Group
from shoal.model.ids import NodeID
from shoal.model.objects import Node, NodeReport, NodeSession
from shoal.model.states import NodeState
from tests.simulation.clockwork import VirtualClock

W1, W2 = NodeID("w1"), NodeID("w2")


class Lab:
    """A leader's control loop and its sparing, over two workers with sessions."""

    def __init__(self) -> None:
        self.kv = SimulatedEtcd(random.Random(1)).client()
        self.memory = Memory()
        self.ids = SeededIds(3)
        self.clock = VirtualClock()
        self.restarting: set[str] = set()
        self.asked: list[str] = []

    async def refuses(self, address: str) -> bool:
        self.asked.append(address)
        await asyncio.sleep(0.3)
        return address in self.restarting

    async def session(self, node: NodeID) -> None:
        record = NodeSession(manager=NodeID("m1"), session=self.ids.new())
        await self.kv.txn((), (Put(session_key(node).encode(), encode(record)),))

    async def lose(self, node: NodeID) -> None:
        await self.kv.txn((), (DeleteRange(session_key(node).encode()),))

    def state(self, name: NodeID) -> NodeState:
        found = self.memory.node(name)
        assert found is not None
        return found.state


@asynccontextmanager
async def running() -> AsyncIterator[Lab]:
    lab = Lab()
    feed = Feed(lab.kv, lab.memory, random.Random(2))
    async with stoppable_group() as group:
        group.start(feed.run(), name="feed")
        await feed.ready()
        won = await lab.kv.txn((), (Put(LEADER_KEY, b'{"id":"m1","address":"m1"}'),))

        def commit() -> Commit:
            return Commit(lab.kv, lab.memory, lab.ids, (LEADER_KEY, won.revision))

        nodes = tuple(Create(Node(id=name)) for name in (W1, W2))
        await commit().commit([Group(nodes)])
        for name in (W1, W2):
            report = encode(NodeReport(addr=name))
            await lab.kv.txn((), (Put(describe_key(name).encode(), report),))
            await lab.session(name)
        loop = ControlLoop(TABLE, lab.memory, commit(), lab.clock, lab.ids)
        group.start(loop.run(), name="loop")
        group.start(Sparing(lab.memory, lab.clock, lab.refuses).run(commit()), name="sparing")
        await asyncio.sleep(0.5)
        assert lab.state(W1) is lab.state(W2) is NodeState.READY
        yield lab
        group.stop()


@pytest.mark.looptime
async def test_a_host_that_refuses_is_spared_and_one_that_is_silent_is_not() -> None:
    async with running() as lab:
        lab.restarting.add(W1)
        await lab.lose(W1)
        await lab.lose(W2)
        await asyncio.sleep(2)
        assert lab.asked == [], "a restart in time costs nothing"
        await asyncio.sleep(2)
        assert (lab.state(W1), lab.state(W2)) == (NodeState.READY, NodeState.DOWN)
        await asyncio.sleep(6)
        assert lab.state(W1) is NodeState.READY
        await lab.session(W1)
        await asyncio.sleep(20)
        assert lab.state(W1) is NodeState.READY
        assert lab.asked.count(W2) == 1
        assert lab.asked.count(W1) <= 4


@pytest.mark.looptime
async def test_daemons_that_do_not_return_are_given_up() -> None:
    async with running() as lab:
        lab.restarting.add(W1)
        await lab.lose(W1)
        await asyncio.sleep(14)
        assert lab.state(W1) is NodeState.READY
        await asyncio.sleep(2)
        assert lab.state(W1) is NodeState.DOWN
        asked = len(lab.asked)
        await asyncio.sleep(20)
        assert len(lab.asked) == asked


@pytest.mark.looptime
async def test_a_host_that_dies_while_it_is_spared_goes_with_the_next_grace() -> None:
    async with running() as lab:
        lab.restarting.add(W1)
        await lab.lose(W1)
        await asyncio.sleep(5)
        lab.restarting.clear()
        assert lab.state(W1) is NodeState.READY
        await asyncio.sleep(2)
        assert lab.state(W1) is NodeState.DOWN
