"""A new leader doubts the sessions of managers that are gone, and of nobody else."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from manager.store.codec import encode
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.keys import LEADER_KEY, session_key
from manager.store.kv import Put
from manager.store.memory import Memory
from manager.store.simulated import Faults, SimulatedEtcd
from manager.succession import Succession
from shoal.common.entropy import SeededIds
from shoal.common.supervise import stoppable_group
from shoal.model.changes import Create, Group, Update
from shoal.model.ids import NodeID
from shoal.model.objects import ManagerInfo, Node, NodeSession
from tests.unit.shoal.common.trusted import FixedClock

pytestmark = pytest.mark.looptime

M1, M2, M3, W1, W2 = (NodeID(name) for name in ("m1", "m2", "m3", "w1", "w2"))


class Lab:
    """The store of three managers and two workers, as m2 sees it when it begins to lead."""

    def __init__(self) -> None:
        self.etcd = SimulatedEtcd(random.Random(1))
        self.kv = self.etcd.client()
        self.memory = Memory()
        self.feed = Feed(self.kv, self.memory, random.Random(2))
        self.ids = SeededIds(3)
        self.asked: list[str] = []
        self.epoch = 0

    def commit(self) -> Commit:
        return Commit(self.kv, self.memory, self.ids, (LEADER_KEY, self.epoch))

    async def session(self, node: NodeID, manager: NodeID, name: str) -> None:
        record = NodeSession(manager=manager, session=name)
        done = await self.kv.txn((), (Put(session_key(node).encode(), encode(record)),))
        await self.memory.reached(done.revision)

    async def change(self, node: Node) -> None:
        outcome = await self.commit().commit([Group((Update(node),))])
        assert not outcome.clashed
        await self.memory.reached(outcome.revision)

    async def answers(self, address: str) -> bool:
        """As after a power cut of m1's host."""
        self.asked.append(address)
        await asyncio.sleep(0.3)
        return address != M1

    def succession(self) -> Succession:
        return Succession(self.memory, FixedClock(), M2, self.answers)

    def node(self, name: NodeID) -> Node:
        found = self.memory.node(name)
        assert found is not None
        return found

    def doubted(self) -> set[NodeID]:
        return {node.id for node in self.memory.nodes() if not node.heard}


@asynccontextmanager
async def running() -> AsyncIterator[Lab]:
    lab = Lab()
    async with stoppable_group() as group:
        group.start(lab.feed.run(), name="feed")
        await lab.feed.ready()
        won = await lab.kv.txn((), (Put(LEADER_KEY, b'{"id":"m2","address":"m2"}'),))
        lab.epoch = won.revision
        managers = [Node(id=name, manager=ManagerInfo(addr=name)) for name in (M1, M2, M3)]
        nodes = [*managers, *(Node(id=name) for name in (W1, W2))]
        outcome = await lab.commit().commit([Group(tuple(Create(node) for node in nodes))])
        await lab.memory.reached(outcome.revision)
        for node, manager in ((M1, M3), (M2, M2), (M3, M1), (W1, M1), (W2, M3)):
            await lab.session(node, manager, f"of {node}")
        yield lab
        group.stop()


async def test_what_a_silent_manager_holds_and_its_own_host_are_doubted() -> None:
    async with running() as lab:
        await lab.succession().run(lab.commit())
        assert lab.doubted() == {M1, M3, W1}
        assert sorted(lab.asked) == [M1, M3], "each once, and not itself"


async def test_who_has_another_session_meanwhile_is_not_doubted() -> None:
    async with running() as lab, asyncio.TaskGroup() as group:
        group.create_task(lab.succession().run(lab.commit()))
        await asyncio.sleep(0.1)
        await lab.session(M3, M2, "another")
        await asyncio.sleep(1)
        assert lab.doubted() == {M1, W1}
        await lab.session(W1, M3, "another")
        assert lab.doubted() == {M1}


async def test_a_clash_is_written_again() -> None:
    async with running() as lab, asyncio.TaskGroup() as group:
        group.create_task(lab.succession().run(lab.commit()))
        await asyncio.sleep(0.2)
        lab.etcd.faults = Faults(lag=(0.5, 0.5))  # the change is stored, and not seen yet
        await lab.change(replace(lab.node(W1), message="changed by another"))
        await asyncio.sleep(2)
        assert lab.node(W1).message == "changed by another"
        assert lab.doubted() == {M1, M3, W1}


async def test_who_leads_no_more_doubts_nobody() -> None:
    async with running() as lab:
        lab.epoch -= 1  # of one that led before
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await lab.succession().run(lab.commit())
        assert lab.doubted() == set()
