"""The barrier: who shares a read with whom, and what happens without a leader."""

import asyncio
import random

import pytest

from manager.store import kv
from manager.store.barrier import NO_LEADER, Barrier
from manager.store.simulated import Faults, SimulatedEtcd
from shoal.model import errors

pytestmark = pytest.mark.looptime


class CountingKV:
    """Counts the reads that a barrier makes, each of which takes a while."""

    def __init__(self, server: SimulatedEtcd) -> None:
        self.store = server.client()
        self.reads = 0

    async def range(self, select: kv.Selector, *, count_only: bool = False) -> kv.RangeResult:
        self.reads += 1
        return await self.store.range(select, count_only=count_only)


@pytest.fixture
def server() -> SimulatedEtcd:
    return SimulatedEtcd(random.Random(1), Faults(request=(0.8, 0.8)))


@pytest.fixture
def counting(server: SimulatedEtcd) -> CountingKV:
    return CountingKV(server)


async def reached(revision: int) -> None:
    return None


async def test_callers_during_a_read_share_the_next_one(
    server: SimulatedEtcd, counting: CountingKV
) -> None:
    barrier = Barrier(counting, reached)  # type: ignore[arg-type] # needs range alone
    async with asyncio.TaskGroup() as group:
        first = [group.create_task(barrier.reached()) for _ in range(3)]
        await asyncio.sleep(0.5)
        later = [group.create_task(barrier.reached()) for _ in range(3)]
        await asyncio.sleep(0.9)
        server.txn((), (kv.Put(b"a", b""),), ())
    assert {task.result() for task in first} == {1}
    assert {task.result() for task in later} == {2}
    assert counting.reads == 2


async def test_next_in_the_round_takes_over_a_cancelled_read(counting: CountingKV) -> None:
    barrier = Barrier(counting, reached)  # type: ignore[arg-type] # needs range alone
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(barrier.reached())
        sharer = group.create_task(barrier.reached())
        await asyncio.sleep(0.5)
        reader.cancel()
    assert sharer.result() == 1
    assert counting.reads == 2


async def test_no_quorum_is_said_after_the_patience(server: SimulatedEtcd) -> None:
    server.quorum = False
    barrier = Barrier(server.client(), reached)
    start = asyncio.get_running_loop().time()
    with pytest.raises(errors.Unavailable) as caught:
        await barrier.reached()
    assert str(caught.value) == NO_LEADER
    assert asyncio.get_running_loop().time() - start == pytest.approx(3.0)


async def test_a_leader_change_shorter_than_the_patience_is_waited_out(
    server: SimulatedEtcd,
) -> None:
    server.quorum = False
    barrier = Barrier(server.client(), reached)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(barrier.reached())
        await asyncio.sleep(0.7)
        server.quorum = True
    assert waiting.result() == 1


async def test_memory_that_does_not_come_is_no_answer(server: SimulatedEtcd) -> None:
    async def never(revision: int) -> None:
        await asyncio.Event().wait()

    with pytest.raises(errors.Unavailable):
        await Barrier(server.client(), never).reached()


async def test_a_read_that_hangs_is_asked_again(server: SimulatedEtcd) -> None:
    server.faults.request = (10.0, 10.0)
    barrier = Barrier(server.client(), reached)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(barrier.reached())
        await asyncio.sleep(0.5)
        server.faults.request = (0.0, 0.0)
    assert waiting.result() == 1
