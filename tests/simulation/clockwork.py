"""Virtual time: an event loop that owns no file and no thread, and a clock that reads it.

Time stands still while anything can run and jumps to the next timer when nothing can. Beside
what looptime does for other tests, a run must be the same in every process: the work of threads
is done at once, in line, and tasks hash by number, for a TaskGroup cancels in a set's order.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

from typing_extensions import override

from shoal.model.objects import EPOCH

T = TypeVar("T")

BEGIN = EPOCH + timedelta(days=20000)


MOST_TURNS = 30_000
"""Turns of the loop at one instant; then `on_still` is called, who must end what spins."""


class _Selector:
    """Where the loop would wait for I/O: here it lets the time pass."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._still = 0

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing runs and nothing is waited for")
        self._still = 0 if timeout > 0 else self._still + 1
        if timeout > 0:
            self._loop.pass_time(timeout)
        elif self._still == MOST_TURNS:
            self._loop.on_still()
        elif self._still > 2 * MOST_TURNS:
            raise RuntimeError("time stands still, whatever is done about it")
        return []


class _NumberedTask(asyncio.Task[T]):
    """A task with the same hash in every process."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self.numbers)
        super().__init__(*args, **kwargs)

    @override
    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """Run one simulation with it, then drop it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.on_still: Callable[[], None] = lambda: None
        self._selector = _Selector(self)
        self._clock_resolution = 1e-6
        self.set_task_factory(_make_task)  # type: ignore[arg-type]

    @override
    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    @override
    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        del executor
        done: asyncio.Future[T] = self.create_future()
        done.set_result(func(*args))
        return done

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who could be woken."""


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **kwargs: Any
) -> _NumberedTask[T]:
    return _NumberedTask(coro, loop=loop, **kwargs)


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    _NumberedTask.numbers = itertools.count()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualClock:
    """`shoal.common.clock.Clock` on the running loop's time."""

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=asyncio.get_running_loop().time())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
