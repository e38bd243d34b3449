"""The loop of the host process: one thread, no asyncio, so that it may fork at any moment.

It waits for what its children do (pidfds), what they ask (channels), signals, and the next
instant at which a child is to be started or killed; everything else follows from these.
"""

import os
import select
import signal
from pathlib import Path

import structlog

from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.host_control import Pids
from shoal.host.processes import Processes, Programs
from shoal.host.requests import Requests
from shoal.host.roles import save_pids

_log = structlog.get_logger("shoal.host")

_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Runs the children of one host until a signal ends it, then ends them in order."""

    def __init__(
        self, config: HostConfig, programs: Programs, clock: Clock, locks: tuple[int, ...]
    ) -> None:
        self._wake, self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._clock = clock
        self._processes = Processes(
            config, programs, clock, locks=locks, private=(self._wake, self._wakeup)
        )
        self._requests = Requests(self._processes, Path(config.state) / "roles.json")
        self._pids_file = Path(config.run) / "pids.json"
        self._written: Pids | None = None
        self._ending = False
        self._ended = False

    def run(self) -> None:
        """Returns when a signal came and every child is gone."""
        for number in _END:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._requests.start_all()
        while not self._ended:
            self._publish()
            self._step()
        self._pids_file.unlink(missing_ok=True)
        _log.info("host ended")

    def _step(self) -> None:
        ready = self._wait()
        if self._wake in ready:
            self._signalled()
        for child in self._processes.children:
            if child.pid is not None and child.pidfd in ready:
                self._read_channel(child.name)
                child.ended()
        for name in tuple(self._processes.channels):
            channel = self._processes.channels[name]
            if channel.open and channel.socket.fileno() in ready:
                self._read_channel(name)
        for child in self._processes.children:
            child.tick()

    def _wait(self) -> set[int]:
        """The descriptors that have something; empty when a deadline came first."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for child in self._processes.children:
            if child.pid is not None:
                poll.register(child.pidfd, select.POLLIN)
        for channel in self._processes.channels.values():
            if channel.open:
                poll.register(channel.socket, select.POLLIN)
        deadlines = [c.deadline for c in self._processes.children if c.deadline is not None]
        timeout = None
        if deadlines:
            timeout = max(0.0, min(deadlines) - self._clock.monotonic()) * 1000 + 1
        return {descriptor for descriptor, _ in poll.poll(timeout)}

    def _signalled(self) -> None:
        numbers = set(os.read(self._wake, 256))
        if self._ending or not numbers & set(_END):
            return
        self._ending = True
        _log.info("host ending", signals=[signal.Signals(n).name for n in sorted(numbers)])
        self._requests.stop_all(self._finish)

    def _finish(self) -> None:
        self._ended = True

    def _read_channel(self, name: str) -> None:
        """All that is there, also from a child that has ended: what it asked last counts."""
        channel = self._processes.channels.get(name)
        while channel is not None and channel.open:
            received = channel.receive()
            if received is None:
                return
            self._requests.answer(channel, *received)

    def _publish(self) -> None:
        pids = self._processes.pids()
        if pids != self._written:
            save_pids(self._pids_file, pids)
            self._written = pids
