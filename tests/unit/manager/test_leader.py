"""Who leads, as a manager tells its users."""

import asyncio
import random

import pytest

from manager.leader import Leadership
from manager.store.election import Candidate
from manager.store.simulated import SimulatedEtcd
from shoal.common.supervise import stoppable_group
from shoal.model.ids import NodeID

pytestmark = pytest.mark.looptime


async def test_a_leader_of_an_epoch_that_is_over_leads_no_more() -> None:
    etcd = SimulatedEtcd(random.Random(1))
    epochs: asyncio.Queue[int] = asyncio.Queue()

    async def lead(epoch: int) -> None:
        epochs.put_nowait(epoch)
        await asyncio.Event().wait()

    async def answers(address: str) -> bool:
        return bool(address)

    me = Candidate(id="m1", address="m1:2377")
    leadership = Leadership(etcd.client(), me, lead, answers, random.Random(2))
    assert leadership.leader(0) is None
    async with stoppable_group() as group:
        group.start(leadership.run(), name="leadership")
        epoch = await epochs.get()
        assert leadership.leader(epoch) == NodeID("m1")
        assert leadership.leader(epoch + 1) is None  # heard of, and not yet whose it is
        group.stop()
