"""The simulated store's misfortunes; how it should be is in `tests/contract/test_kv.py`."""

import asyncio
import random

import pytest

from manager.store import kv
from manager.store.simulated import Faults, SimulatedEtcd
from shoal.model import errors

pytestmark = pytest.mark.looptime


def server_with(**knobs: float | tuple[float, float] | int) -> SimulatedEtcd:
    return SimulatedEtcd(random.Random(1), Faults(**knobs))  # type: ignore[arg-type]


async def trace(seed: int) -> list[object]:
    """What a client meets in a rough world."""
    faults = Faults(
        request=(0.0, 0.1),
        answer=(0.0, 0.1),
        lag=(0.0, 1.0),
        unavailable=0.1,
        lost_request=0.1,
        lost_answer=0.1,
        late_request=0.1,
        broken_watch=0.1,
    )
    server = SimulatedEtcd(random.Random(seed), faults)
    met: list[object] = []
    store = server.client()
    for number in range(50):
        try:
            met.append((await store.txn((), (kv.Put(b"%d" % (number % 7), b""),))).revision)
        except errors.Unavailable as error:
            met.append((type(error).__name__, str(error)))
    seen = 0
    while seen < server.state.revision:
        try:
            async with store.watch(kv.Prefix(b""), start_revision=seen + 1) as watch:
                async for response in watch:
                    seen = response.revision
                    met.append(response)
                    if seen >= server.state.revision:
                        break
        except errors.Unavailable as error:
            met.append(str(error))
    return [*met, asyncio.get_running_loop().time()]


async def test_same_seed_same_run() -> None:
    start = asyncio.get_running_loop().time()
    first = await trace(7)
    between = asyncio.get_running_loop().time()
    second = await trace(7)
    assert first[:-1] == second[:-1]
    length = asyncio.get_running_loop().time() - between
    assert length == pytest.approx(between - start)
    assert first[:-1] != (await trace(8))[:-1]


@pytest.mark.parametrize(
    ("knob", "done_now", "done_later"),
    [("lost_request", 0, 0), ("lost_answer", 1, 1), ("late_request", 0, 1)],
)
async def test_unknown_outcomes(knob: str, done_now: int, done_later: int) -> None:
    server = server_with(**{knob: 1.0})
    with pytest.raises(kv.OutcomeUnknown):
        await server.client().txn((), (kv.Put(b"a", b""),))
    assert server.state.range(b"a").count == done_now
    await asyncio.sleep(3)
    assert server.state.range(b"a").count == done_later


async def test_refused_calls_are_surely_undone() -> None:
    server = server_with(unavailable=1.0)
    with pytest.raises(errors.Unavailable) as caught:
        await server.client().txn((), (kv.Put(b"a", b""),))
    assert not isinstance(caught.value, kv.OutcomeUnknown)
    assert server.state.revision == 1


async def test_cut_between_request_and_answer_is_an_unknown_outcome() -> None:
    server = server_with(answer=(1.0, 1.0))
    store = server.client()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(outcome(store))
        await asyncio.sleep(0.5)
        store.reachable = False
    assert asked.result() is kv.OutcomeUnknown
    assert server.state.revision == 2
    assert await outcome(store) is errors.Unavailable
    assert await outcome(server.client()) is None


async def outcome(store: kv.KV) -> type[errors.Unavailable] | None:
    try:
        await store.txn((), (kv.Put(b"a", b""),))
    except errors.Unavailable as error:
        return type(error)
    return None


async def test_without_quorum_only_local_reads_answer() -> None:
    server = server_with()
    store = server.client()
    async with store.watch(b"a", start_revision=2) as watch:
        server.quorum = False
        with pytest.raises(errors.Unavailable):
            await anext(aiter(watch))
    with pytest.raises(errors.Unavailable):
        await store.range(b"a")
    assert (await store.range(b"a", serializable=True)).count == 0
    assert (await store.status()).leader == 0


async def test_leases_stand_still_without_quorum() -> None:
    server = server_with()
    store = server.client()
    lease = await store.lease_grant(2)
    await store.txn((), (kv.Put(b"a", b"", lease.id),))
    server.quorum = False
    await asyncio.sleep(10)
    server.quorum = True
    assert (await store.range(b"a")).count == 1
    await asyncio.sleep(2.1)
    assert (await store.range(b"a")).count == 0


async def test_lagging_watch_gets_all_that_happened_meanwhile() -> None:
    server = server_with(lag=(1.0, 1.0))
    store = server.client()
    async with store.watch(kv.Prefix(b""), start_revision=2) as watch:
        for name in (b"a", b"b", b"c"):
            await store.txn((), (kv.Put(name, b""),))
        start = asyncio.get_running_loop().time()
        seen = 1
        async for response in watch:
            assert response.events[0].kv.mod_revision == seen + 1
            seen = response.revision
            if seen == 4:
                break
        assert asyncio.get_running_loop().time() >= start + 1


async def test_one_learner_at_a_time() -> None:
    server = server_with()
    store = server.client()
    learner = await store.member_add_learner(("http://m2:2384",))
    with pytest.raises(errors.FailedPrecondition):
        await store.member_add_learner(("http://m3:2384",))
    server.learner_ready = False
    with pytest.raises(errors.FailedPrecondition):
        await store.member_promote(learner.id)
    server.learner_ready = True
    await store.member_promote(learner.id)
    assert [member.is_learner for member in await store.member_list()] == [False, False]
    await store.member_remove(learner.id)
    assert len(await store.member_list()) == 1
