"""Keeping loops running, and ending them in order.

`supervise` restarts one loop that crashed or ended, with a delay that grows; `StoppableGroup`
is a TaskGroup that can be told to end (3.11 has no `TaskGroup.cancel`); `shut_down` runs the
last steps of a program, each with its own limit. The composition roots and the leader use it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import structlog
from msgspec import Struct

from shoal.common.backoff import Backoff
from shoal.common.clock import Clock
from shoal.model.errors import ClusterError, Unavailable

_log = structlog.get_logger(__name__)


class Trouble(Struct, frozen=True, kw_only=True):
    """One failed run of a supervised loop."""

    name: str
    error: Exception | None
    in_a_row: int
    delay: float


Report = Callable[[Trouble], None]
"""Told of each failed run, e.g. to count it; must not block or raise."""


class Restarts(Struct, frozen=True, kw_only=True):
    """How a loop is restarted: delays, when it counts as healthy, when to give up.

    `give_up_after` failures in a row raise Unavailable to the owner's group (a leader whose
    loop keeps failing lets leadership go); None never does.
    """

    backoff: Backoff = Backoff(first=0.2, cap=30.0)
    healthy_after: float = 60.0
    give_up_after: int | None = None


DEFAULT_RESTARTS = Restarts()


class Supervisor:
    """Restarts loops; holds what all of them share."""

    def __init__(
        self, clock: Clock, chance: random.Random, report: Report | None = None
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._report = report

    async def keep(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        restarts: Restarts = DEFAULT_RESTARTS,
    ) -> NoReturn:
        """Run a loop for ever; call it inside a TaskGroup, whose cancellation ends it.

        A quiet end counts as a failure: these loops have no end of their own.
        """
        delays = restarts.backoff.delays(self._chance)
        in_a_row = 0
        while True:
            started = self._clock.monotonic()
            error = await _once(run)
            if self._clock.monotonic() - started >= restarts.healthy_after:
                delays = restarts.backoff.delays(self._chance)
                in_a_row = 0
            in_a_row += 1
            trouble = Trouble(name=name, error=error, in_a_row=in_a_row, delay=next(delays))
            self._tell(trouble)
            if restarts.give_up_after is not None and in_a_row >= restarts.give_up_after:
                raise Unavailable(
                    f"{name} failed {in_a_row} times in a row"
                    + (f", last with: {error}" if error is not None else "")
                ) from error
            await asyncio.sleep(trouble.delay)

    def _tell(self, trouble: Trouble) -> None:
        if trouble.error is None:
            _log.warning("loop ended", loop=trouble.name, restart_in=trouble.delay)
        else:
            _log.error(
                "loop failed",
                loop=trouble.name,
                restart_in=trouble.delay,
                in_a_row=trouble.in_a_row,
                exc_info=trouble.error,
            )
        if self._report is not None:
            self._report(trouble)


async def _once(run: Callable[[], Awaitable[None]]) -> Exception | None:
    try:
        await run()
    except Exception as error:  # noqa: BLE001 - the supervising loop; logged by the caller
        return error
    return None


class _Stop(Exception):
    """Raised inside a StoppableGroup by its own `stop`."""


class StoppableGroup:
    """A TaskGroup with an end on request; made by `stoppable_group`."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._stopping = False

    def start(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Start a named task of this group."""
        self._group.create_task(work, name=name)

    def stop(self) -> None:
        """Cancel everything in the group, its body included; the context then ends quietly."""
        if not self._stopping:
            self._stopping = True
            self._group.create_task(_raise_stop(), name="stop")


async def _raise_stop() -> None:
    raise _Stop


@asynccontextmanager
async def stoppable_group() -> AsyncIterator[StoppableGroup]:
    """A group whose `stop` ends it without an error; other failures come through."""
    try:
        async with asyncio.TaskGroup() as group:
            yield StoppableGroup(group)
    except* _Stop:
        _log.debug("group stopped")


class Stage(Struct, frozen=True, kw_only=True):
    """One step of a shutdown and the seconds it may take."""

    name: str
    stop: Callable[[], Awaitable[None]]
    limit: float


async def shut_down(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Run the stages in order, each under its own deadline; the names of those that failed.

    A stage that overruns or fails is logged and the next one still runs: the store must be
    closed even when draining hung.
    """
    failed = []
    for stage in stages:
        try:
            async with asyncio.timeout(stage.limit):
                await stage.stop()
        except TimeoutError:
            _log.warning("shutdown stage too slow", stage=stage.name, limit=stage.limit)
            failed.append(stage.name)
        except (ClusterError, OSError) as error:
            _log.warning("shutdown stage failed", stage=stage.name, reason=str(error))
            failed.append(stage.name)
        except Exception:  # noqa: BLE001 - the next stage must run; logged with its trace
            _log.exception("shutdown stage failed", stage=stage.name)
            failed.append(stage.name)
    return tuple(failed)
