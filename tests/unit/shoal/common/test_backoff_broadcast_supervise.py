import asyncio
import io
import itertools
import json
import logging
import random
from collections.abc import Iterator

import pytest
import structlog

from shoal.common import log
from shoal.common.backoff import Backoff
from shoal.common.broadcast import Broadcast, Reader, Relist
from shoal.common.clock import SystemClock
from shoal.common.rate_limit import Rate, RateLimit
from shoal.common.supervise import (
    Restarts,
    Stage,
    Supervisor,
    Trouble,
    shut_down,
    stoppable_group,
)
from shoal.model.errors import Conflict, InvalidArgument, Unavailable

FAST = Backoff(first=0.001, cap=0.002)


def test_delays_grow_to_the_cap_and_keep_below_it() -> None:
    plain = Backoff(first=1, factor=3, cap=10, jitter=0)
    assert list(itertools.islice(plain.delays(random.Random(1)), 5)) == [1, 3, 9, 10, 10]
    spread = Backoff(first=1, factor=3, cap=10, jitter=0.5).delays(random.Random(1))
    for delay, full in zip(spread, [1, 3, 9, 10, 10], strict=False):
        assert full / 2 < delay <= full


async def test_readers_get_everything_in_order() -> None:
    broadcast: Broadcast[int] = Broadcast()
    with broadcast.subscribe() as one, broadcast.subscribe() as two:
        for number in range(3):
            broadcast.publish(number)
        broadcast.close()
        assert [item async for item in one] == [0, 1, 2]
        assert [item async for item in two] == [0, 1, 2]
    assert [item async for item in broadcast.subscribe()] == []
    with pytest.raises(InvalidArgument):
        broadcast.subscribe(0)


async def test_slow_reader_is_told_to_list_again_and_goes_on() -> None:
    broadcast: Broadcast[int] = Broadcast()
    with broadcast.subscribe(limit=2) as slow, broadcast.subscribe(limit=10) as quick:
        for number in range(5):
            broadcast.publish(number)
        assert await anext(slow) == Relist(4)
        assert await anext(slow) == 4
        broadcast.publish(5)
        broadcast.close()
        assert [item async for item in slow] == [5]
        assert [item async for item in quick] == [0, 1, 2, 3, 4, 5]


async def test_reader_waits_for_the_next_item() -> None:
    broadcast: Broadcast[str] = Broadcast()
    with broadcast.subscribe() as reader:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_next(reader))
            await asyncio.sleep(0)
            broadcast.publish("here")
        assert waiting.result() == "here"


async def _next(reader: Reader[str]) -> str | Relist:
    return await anext(reader)


async def test_failing_loop_is_restarted_and_reported() -> None:
    seen: list[Trouble] = []
    runs = 0
    enough = asyncio.Event()

    async def loop() -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            return
        if runs == 4:
            enough.set()
            await asyncio.Event().wait()
        raise Conflict(f"run {runs}")

    supervisor = Supervisor(SystemClock(), random.Random(1), seen.append)
    async with asyncio.timeout(5), stoppable_group() as group:
        group.start(supervisor.keep("loop", loop, Restarts(backoff=FAST)), name="loop")
        await enough.wait()
        group.stop()
    assert [trouble.in_a_row for trouble in seen] == [1, 2, 3]
    assert [str(trouble.error) for trouble in seen] == ["run 1", "None", "run 3"]


async def test_supervisor_gives_up_when_told_to() -> None:
    async def loop() -> None:
        raise Conflict("always")

    supervisor = Supervisor(SystemClock(), random.Random(1))
    with pytest.raises(
        Unavailable, match="scheduler failed 3 times in a row, last with: always"
    ):
        await supervisor.keep("scheduler", loop, Restarts(backoff=FAST, give_up_after=3))


async def test_healthy_run_starts_the_count_anew() -> None:
    seen: list[Trouble] = []
    runs = 0
    enough = asyncio.Event()

    async def loop() -> None:
        nonlocal runs
        runs += 1
        if runs > 3:
            enough.set()
            await asyncio.Event().wait()
        raise Conflict("x")

    supervisor = Supervisor(SystemClock(), random.Random(1), seen.append)
    async with asyncio.timeout(5), stoppable_group() as group:
        settings = Restarts(backoff=FAST, healthy_after=0.0)
        group.start(supervisor.keep("loop", loop, settings), name="loop")
        await enough.wait()
        group.stop()
    assert [trouble.in_a_row for trouble in seen] == [1, 1, 1]


async def test_group_passes_other_failures_on() -> None:
    async def fail() -> None:
        raise Conflict("mine")

    async def own() -> None:
        async with stoppable_group() as group:
            group.start(fail(), name="fail")
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await own()
    assert isinstance(caught.value.exceptions[0], Conflict)


async def test_group_can_be_cancelled_from_outside() -> None:
    entered = asyncio.Event()

    async def owner() -> None:
        async with stoppable_group():
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(owner())
        await entered.wait()
        task.cancel()
    assert task.cancelled()


async def test_shutdown_runs_every_stage_in_order_within_its_limit() -> None:
    done: list[str] = []

    def stage(name: str, error: Exception | None = None) -> Stage:
        async def stop() -> None:
            done.append(name)
            if error is not None:
                raise error

        return Stage(name=name, stop=stop, limit=1.0)

    async def hang() -> None:
        done.append("hang")
        await asyncio.Event().wait()

    failed = await shut_down(
        [
            stage("intake"),
            Stage(name="drain", stop=hang, limit=0.01),
            stage("sessions", Conflict("no")),
            stage("odd", ValueError("no")),
            stage("store"),
        ]
    )
    assert done == ["intake", "hang", "sessions", "odd", "store"]
    assert failed == ("drain", "sessions", "odd")


def test_rate_limit_refills_and_forgets() -> None:
    limit = RateLimit(Rate(burst=2, per_second=0.5, remembered=2))
    assert [limit.take("a", 0.0) for _ in range(3)] == [0, 0, 2.0]
    assert limit.take("a", 1.0) == 1.0
    assert limit.take("a", 2.0) == 0
    assert limit.take("b", 2.0) == 0
    assert limit.take("c", 2.0) == 0  # forgets a
    assert [limit.take("a", 2.0) for _ in range(2)] == [0, 0]


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("logging_restored")
def test_log_lines_are_json_with_bound_fields() -> None:
    out = io.StringIO()
    log.set_up("agent", stream=out)
    structlog.contextvars.bind_contextvars(node="n1")
    structlog.get_logger("ours").info("task started", task="t1")
    logging.getLogger("theirs").warning("a %s line", "foreign")
    key_pem = "-----BEGIN PRIVATE KEY-----"  # a local of a frame in the trace
    try:
        [][len(key_pem)]
    except IndexError:
        structlog.get_logger("ours").exception("loop failed")
    structlog.get_logger("ours").debug("hidden")
    ours, theirs, failed = (json.loads(line) for line in out.getvalue().splitlines())
    assert ours["event"] == "task started"
    assert (ours["node"], ours["task"], ours["program"]) == ("n1", "t1", "agent")
    assert (theirs["event"], theirs["level"]) == ("a foreign line", "warning")
    assert failed["exception"][0]["exc_value"] == "list index out of range"
    assert key_pem not in out.getvalue()
    plain = io.StringIO()
    log.set_up("agent", as_json=False, stream=plain)
    structlog.get_logger("others").info("task started", task="t2")
    assert "task started" in plain.getvalue()
    assert "task=t2" in plain.getvalue()
