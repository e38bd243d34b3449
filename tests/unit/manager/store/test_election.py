"""The election: one epoch at a time, held no longer than the lease surely lives."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from manager.store import kv
from manager.store.election import Candidate, Election
from manager.store.keys import LEADER_KEY
from manager.store.simulated import SimulatedEtcd, SimulatedKV
from shoal.model import errors

pytestmark = pytest.mark.looptime


class Manager:
    """A manager that does nothing but lead, and writes down when."""

    def __init__(self, server: SimulatedEtcd, name: str, acting: list[tuple[str, int]]) -> None:
        self.name = name
        self.store: SimulatedKV = server.client()
        self.election = Election(
            self.store, Candidate(name, f"{name}:2377"), random.Random(name)
        )
        self.acting = acting

    async def lead(self, epoch: int) -> None:
        assert self.election.epoch == epoch
        self.acting.append((self.name, epoch))
        try:
            await asyncio.Event().wait()
        finally:
            self.acting.remove((self.name, epoch))


@pytest.fixture
def server() -> SimulatedEtcd:
    return SimulatedEtcd(random.Random(1))


@pytest.fixture
def acting() -> list[tuple[str, int]]:
    return []


@asynccontextmanager
async def running(
    election: Election, lead: Callable[[int], Awaitable[None]]
) -> AsyncIterator[asyncio.Task[None]]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(election.run(lead))
        try:
            yield task
        finally:
            task.cancel()


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - virtual time, and any state of two parties
            await asyncio.sleep(0.01)


async def test_one_leads_and_the_other_follows(
    server: SimulatedEtcd, acting: list[tuple[str, int]]
) -> None:
    one, two = Manager(server, "one", acting), Manager(server, "two", acting)
    async with running(one.election, one.lead) as task:
        await within(1, lambda: bool(acting))
        async with running(two.election, two.lead):
            await within(1, lambda: two.election.leader() is not None)
            await asyncio.sleep(60)
            epoch = one.election.epoch
            assert acting == [("one", epoch)]
            assert two.election.epoch == 0
            assert two.election.leader() == one.election.leader()
            assert one.election.fence() == kv.CreateRevisionIs(LEADER_KEY, epoch)
            with pytest.raises(errors.Unavailable):
                two.election.fence()
            task.cancel()
            await within(0.2, lambda: [name for name, _ in acting] == ["two"])
            assert two.election.epoch > epoch
    assert server.state.range(LEADER_KEY).count == 0


async def test_stops_before_the_lease_can_have_ended(
    server: SimulatedEtcd, acting: list[tuple[str, int]]
) -> None:
    one, two = Manager(server, "one", acting), Manager(server, "two", acting)
    async with (
        running(one.election, one.lead),
        running(two.election, two.lead),
    ):
        await within(1, lambda: bool(acting))
        loser, winner = (one, two) if acting[0][0] == "one" else (two, one)
        for cut in (0.03, 0.11, 0.23):
            await handed_over(server, loser, winner, cut)
            assert acting == [(winner.name, winner.election.epoch)]
            loser, winner = winner, loser


async def handed_over(
    server: SimulatedEtcd, loser: Manager, winner: Manager, cut: float
) -> None:
    """Cut the leader off at some moment between renewals; it never acts without the key."""
    await asyncio.sleep(cut)
    loser.store.reachable = False
    start = asyncio.get_running_loop().time()
    await within(2, lambda: loser.election.epoch == 0)
    await asyncio.sleep(0.001)
    assert loser.acting == []
    assert server.state.range(LEADER_KEY).count == 1, "the office fell vacant before it let go"
    assert 0.5 < asyncio.get_running_loop().time() - start < 0.86
    await within(1.5, lambda: winner.election.epoch > 0)
    loser.store.reachable = True
    await within(1.5, lambda: loser.election.leader() == winner.election.leader())


async def test_early_takeover_moves_the_epoch(
    server: SimulatedEtcd, acting: list[tuple[str, int]]
) -> None:
    one, two = Manager(server, "one", acting), Manager(server, "two", acting)
    async with running(one.election, one.lead):
        await within(1, lambda: bool(acting))
        async with running(two.election, two.lead):
            await within(1, lambda: two.election.leader() is not None)
            fence = one.election.fence()
            observed = fence.revision
            assert not await two.election.take_over(observed - 1)
            assert not await two.election.take_over(observed), "too soon after the first"
            await asyncio.sleep(2)
            one.store.reachable = False
            assert await two.election.take_over(observed)
            await within(0.1, lambda: two.election.epoch > observed)
            refused = server.state.txn((fence,), (kv.Put(b"x", b""),))
            assert not refused.succeeded
            assert not await two.election.take_over(two.election.epoch)


async def test_unknown_outcome_of_the_campaign_is_read_back(
    server: SimulatedEtcd, acting: list[tuple[str, int]]
) -> None:
    one = Manager(server, "one", acting)
    server.faults.lost_answer = 0.5
    async with running(one.election, one.lead):
        await within(30, lambda: bool(acting))
        (key,) = server.state.range(LEADER_KEY).kvs
        assert acting == [("one", key.create_revision)]


async def test_lead_that_returns_lets_go_and_tries_again(server: SimulatedEtcd) -> None:
    epochs: list[int] = []

    async def lead(epoch: int) -> None:
        epochs.append(epoch)

    election = Election(server.client(), Candidate("one", "a"), random.Random(1))
    async with running(election, lead):
        await within(5, lambda: len(epochs) == 3)
    assert epochs == sorted(set(epochs))


async def test_lead_that_fails_lets_go_and_passes_its_error_on(server: SimulatedEtcd) -> None:
    async def lead(epoch: int) -> None:
        raise errors.Internal("a loop fell")

    election = Election(server.client(), Candidate("one", "a"), random.Random(1))
    with pytest.raises(ExceptionGroup) as caught:
        await election.run(lead)
    assert caught.group_contains(errors.Internal)
    assert server.state.range(LEADER_KEY).count == 0


async def test_followers_survive_a_loss_of_quorum(
    server: SimulatedEtcd, acting: list[tuple[str, int]]
) -> None:
    one = Manager(server, "one", acting)
    async with running(one.election, one.lead):
        await within(1, lambda: bool(acting))
        server.quorum = False
        await within(1, lambda: not acting)
        server.quorum = True
        await within(5, lambda: bool(acting))
