"""The life of one child: started, watched, restarted with growing pauses, ended within a bound.

It never waits: the supervisor's loop calls `ended` when `pidfd` is readable and `tick` when
`deadline` has come, and everything follows from these two and from `start` and `stop`.
"""

import os
import signal
from collections.abc import Callable

import structlog

from shoal.common.clock import Clock

_log = structlog.get_logger("shoal.host")

# A life this long makes the next death a first one again.
_PROVEN = 10.0
_SECOND_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_STOP_LIMIT = 10.0


def restart_pause(deaths: int) -> float:
    """Seconds before the next start after so many early deaths in a row, this one included."""
    if deaths <= 1:
        return 0.0
    return min(_LONGEST_PAUSE, _SECOND_PAUSE * 2.0 ** min(deaths - 2, 10))


class Child:
    """A program that is to run (after `start`) or not (after `stop`), with at most one process.

    `spawn` makes the process and returns its pid, or raises OSError.
    """

    def __init__(self, name: str, spawn: Callable[[], int], clock: Clock) -> None:
        self.name = name
        self.pid: int | None = None
        self.pidfd = -1
        self._spawn = spawn
        self._clock = clock
        self._wanted = False
        self._stopping = False
        self._deaths = 0
        self._started = 0.0
        self._alarm: float | None = None
        self._on_end: list[Callable[[], None]] = []

    def start(self, then: Callable[[str], None]) -> None:
        """Have it run. `then` hears an empty string when it does, or why it cannot.

        A first start that fails is not tried again; the caller knows and may.
        """
        if self._stopping:
            self._on_end.append(lambda: self.start(then))
            return
        if self.pid is None:
            try:
                self._begin()
            except OSError as error:
                self._alarm = None
                self._wanted = False
                then(f"{self.name} cannot be started: {error}")
                return
        self._wanted = True
        then("")

    def start_supervised(self) -> None:
        """Have it run, and keep trying if it cannot be started."""
        self._wanted = True
        if self.pid is None:
            self._begin_again()

    def stop(self, then: Callable[[], None]) -> None:
        """Have it not run. `then` is called when there is no process (any more)."""
        self._wanted = False
        if self.pid is None:
            self._alarm = None
            self._deaths = 0
            then()
            return
        self._on_end.append(then)
        if not self._stopping:
            self._stopping = True
            self._alarm = self._clock.monotonic() + _STOP_LIMIT
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    @property
    def deadline(self) -> float | None:
        """The monotonic instant of the next `tick` it needs."""
        return self._alarm

    def tick(self) -> None:
        """Start again, or kill, if it is time."""
        if self._alarm is None or self._clock.monotonic() < self._alarm:
            return
        self._alarm = None
        if self.pid is None:
            self._begin_again()
        else:
            _log.warning("child killed", child=self.name, pid=self.pid, after=_STOP_LIMIT)
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def ended(self) -> None:
        """Reap it; start it again at once or after a pause, if it is wanted."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        life = self._clock.monotonic() - self._started
        log = _log.bind(
            child=self.name, pid=self.pid, cause=_cause(result), life=round(life, 3)
        )
        os.close(self.pidfd)
        self.pid, self.pidfd, self._alarm = None, -1, None
        if self._stopping or not self._wanted:
            self._finish(log)
            return
        self._deaths = 1 if life >= _PROVEN else self._deaths + 1
        pause = restart_pause(self._deaths)
        log.error("child ended unasked", restart_in=pause)
        self._alarm = self._clock.monotonic() + pause
        self.tick()

    def _finish(self, log: structlog.stdlib.BoundLogger) -> None:
        log.info("child ended")
        self._stopping = False
        self._deaths = 0
        waiting, self._on_end = self._on_end, []
        for then in waiting:
            then()

    def _begin_again(self) -> None:
        try:
            self._begin()
        except OSError as error:
            self._deaths += 1
            pause = restart_pause(self._deaths)
            _log.error(
                "child cannot be started", child=self.name, cause=str(error), again_in=pause
            )
            self._alarm = self._clock.monotonic() + pause

    def _begin(self) -> None:
        self.pid = self._spawn()
        self.pidfd = os.pidfd_open(self.pid)
        self._started = self._clock.monotonic()
        self._alarm = None
        _log.info("child started", child=self.name, pid=self.pid)


def _cause(result: os.waitid_result) -> str:
    if result.si_code == os.CLD_EXITED:
        return f"exit status {result.si_status}"
    name = signal.Signals(result.si_status).name
    return f"killed by {name}" + (", core dumped" if result.si_code == os.CLD_DUMPED else "")
