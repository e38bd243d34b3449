"""One session with a manager: register, heartbeat, receive, report.

Reads and writes one `Line` until either side ends it (`agent.line` is the one over gRPC). What
is told goes to a `Listener` (`agent.worker`), after the checks that keep an older word from
undoing a newer one. Which manager to talk to, and when to try again, is `agent.membership`'s.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from agent.assignments import NOTHING, merge
from agent.report import Reports
from proto import dispatcher_pb2
from proto.convert import from_message, to_message
from shoal.model.assignment import Assignments, Difference, Stamp
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.objects import NodeReport

_log = structlog.get_logger(__name__)

SILENT_HEARTBEATS = 2
"""A manager answers each heartbeat; silence for longer than two is the session's end."""


class Line(Protocol):
    """A stream of messages to and from one manager. Raises `shoal.model.errors` only."""

    async def write(self, message: dispatcher_pb2.AgentMessage) -> None: ...

    async def read(self) -> dispatcher_pb2.ManagerMessage:
        """The next message; raises at the end of the stream, with the reason."""
        ...


class Listener(Protocol):
    """Who acts on what is told."""

    @property
    def stamp(self) -> Stamp:
        """The greatest stamp applied."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the kernel's network is as the last set applied wants it."""
        ...

    async def apply(self, stamp: Stamp, told: Assignments) -> None:
        """Act on a new set; return when it would survive a crash."""
        ...


class Session:
    """A conversation over a line; `run` it once.

    `patience` bounds the welcome, in seconds.
    """

    def __init__(
        self,
        line: Line,
        listener: Listener,
        reports: Reports,
        describe: Callable[[], NodeReport],
        opened: Callable[[str], None],
        patience: float,
    ) -> None:
        self._line = line
        self._listener = listener
        self._reports = reports
        self._describe = describe
        self._opened = opened
        self._patience = patience
        self._described = NodeReport()
        self._told = NOTHING
        self._sequence = 0
        self._taken = 0
        self._acted = 0
        self._applied = 0
        self._resync = False
        self._heartbeat = 1.0
        self._woken = asyncio.Event()
        self._unheard: list[dispatcher_pb2.AssignmentsMessage] = []
        self._end: Exception | None = None
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        """There may be something to say: a status, another description."""
        self._woken.set()

    async def run(self) -> None:
        """Talk until the stream ends; always raises.

        Raises:
            PermissionDenied: the manager does not know this node.
            Unavailable: it cannot be reached, fell silent, or knows less than this node does.
            ClusterError: it refuses for another reason.
        """
        try:
            await self._run()
        except ExceptionGroup as group:
            raise _translated(_first(group)) from group
        except TimeoutError as error:
            raise _translated(error) from error
        raise Unavailable("the manager ended the session")

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._register()
            self._reports.begin_session()
            self._reports.wake = self.wake
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell(), name="tell")
                group.create_task(self._read(), name="read")
                await self._hear()
        finally:
            self._reports.wake = None

    async def _register(self) -> None:
        """Say who we are, and be welcomed."""
        self._described = self._describe()
        register = dispatcher_pb2.Register()
        to_message(self._described, register.report)
        to_message(self._listener.stamp, register.applied)
        await self._line.write(dispatcher_pb2.AgentMessage(register=register))
        answer = await self._line.read()
        if answer.WhichOneof("said") != "welcome":
            raise Unavailable("the manager did not welcome this node")
        self._heartbeat = answer.welcome.heartbeat_ns / 1e9
        self._opened(answer.welcome.session_id)

    # -- what we are told
    # ----------------------------------------------------------------

    async def _read(self) -> None:
        """Read ahead: what comes while we act on a word is acted on at once, after that."""
        while True:
            try:
                async with asyncio.timeout(SILENT_HEARTBEATS * self._heartbeat):
                    message = await self._line.read()
            except (ClusterError, TimeoutError) as error:
                self._end = error
                self._arrived.set()
                return
            match message.WhichOneof("said"):
                case "assignments":
                    self._unheard.append(message.assignments)
                    self._arrived.set()
                case "welcome":  # said again where the cluster's heartbeat has changed
                    self._heartbeat = message.welcome.heartbeat_ns / 1e9
                    self.wake()
                case "status_ack":
                    self._reports.acknowledge(message.status_ack.sequence)
                case _:
                    continue  # a heartbeat's answer: that it came is all there is to it

    async def _hear(self) -> None:
        """Act on all that has come; raises at the end of the stream, when that is done."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            heard, self._unheard = self._unheard, []
            stamp = self._listener.stamp
            for said in heard:
                stamp = self._take(said, stamp)
            if self._taken:
                taken, self._taken = self._taken, 0
                await self._listener.apply(stamp, self._told)
                self._acted = taken
                self.wake()
            if self._end is not None:
                raise self._end

    def _take(self, said: dispatcher_pb2.AssignmentsMessage, known: Stamp) -> Stamp:
        """Take in one message; what we have come to with it."""
        stamp = from_message(said.stamp, Stamp)
        if stamp < known:
            raise Unavailable(
                f"the manager is behind: it speaks of {stamp}, and {known} is applied already"
            )
        if not said.complete and (self._sequence == 0 or said.sequence != self._sequence + 1):
            _log.warning("assignments missed", expected=self._sequence + 1, got=said.sequence)
            self._sequence = 0
            self._resync = True
            self.wake()
            return known
        self._sequence = self._taken = said.sequence
        difference = from_message(said.difference, Difference)
        self._told = merge(self._told, difference, complete=said.complete)
        return stamp

    # -- what we say: one writer
    # --------------------------------------------------------

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        last = float("-inf")
        while True:
            for message in self._news():
                await self._line.write(message)
            due = last + self._heartbeat
            if loop.time() >= due:
                beat = dispatcher_pb2.AgentMessage(heartbeat=dispatcher_pb2.Heartbeat())
                await self._line.write(beat)
                last = loop.time()
                due = last + self._heartbeat
            try:
                async with asyncio.timeout_at(due):
                    await self._woken.wait()
            except TimeoutError:
                continue  # time for a heartbeat
            self._woken.clear()

    def _news(self) -> list[dispatcher_pb2.AgentMessage]:
        news = []
        if self._resync:
            self._resync = False
            news.append(dispatcher_pb2.AgentMessage(resync=dispatcher_pb2.Resync()))
        if self._acted != self._applied and self._listener.settled:
            self._applied = self._acted
            applied = dispatcher_pb2.Applied(sequence=self._applied)
            news.append(dispatcher_pb2.AgentMessage(applied=applied))
        present = self._describe()
        if present != self._described:
            self._described = present
            described = dispatcher_pb2.Described()
            to_message(present, described.report)
            news.append(dispatcher_pb2.AgentMessage(described=described))
        taken = self._reports.take()
        if taken is not None:
            sequence, statuses = taken
            update = dispatcher_pb2.StatusUpdate(sequence=sequence)
            for task, status in statuses.items():
                report = update.reports.add(task_id=task)
                to_message(status, report.status)
            news.append(dispatcher_pb2.AgentMessage(status=update))
        return news


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first of the errors themselves, however nested."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _translated(error: Exception) -> Exception:
    if isinstance(error, TimeoutError):
        return Unavailable("the manager fell silent")
    return error
