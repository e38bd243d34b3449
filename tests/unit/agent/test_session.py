"""An agent's session: what it makes of the words of a manager, however they come."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.report import Reports
from agent.session import Session
from proto import dispatcher_pb2
from proto.convert import to_message
from shoal.model.assignment import AssignedTask, Assignments, Difference, Stamp
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.ids import ServiceID, TaskID
from shoal.model.objects import NodeReport, TaskStatus
from shoal.model.states import TaskState


class Wire:
    """A line whose other end the test has."""

    def __init__(self) -> None:
        self.sent: list[dispatcher_pb2.AgentMessage] = []
        self._said: asyncio.Queue[dispatcher_pb2.ManagerMessage | ClusterError] = (
            asyncio.Queue()
        )
        self.say(
            dispatcher_pb2.ManagerMessage(
                welcome=dispatcher_pb2.Welcome(session_id="s", heartbeat_ns=10**9)
            )
        )

    @property
    def unread(self) -> int:
        return self._said.qsize()

    def say(self, word: dispatcher_pb2.ManagerMessage | ClusterError) -> None:
        self._said.put_nowait(word)

    def assign(self, sequence: int, *tasks: str, revision: int | None = None) -> None:
        message = dispatcher_pb2.ManagerMessage()
        said = message.assignments
        stamp = Stamp(incarnation=1, epoch=1, revision=revision or sequence)
        to_message(stamp, said.stamp)
        said.complete, said.sequence = sequence == 1, sequence
        new = [
            AssignedTask(id=TaskID(t), service_id=ServiceID("s"), service_name="s", name=t)
            for t in tasks
        ]
        to_message(Difference(tasks=tuple(new)), said.difference)
        self.say(message)

    async def write(self, message: dispatcher_pb2.AgentMessage) -> None:
        self.sent.append(message)

    async def read(self) -> dispatcher_pb2.ManagerMessage:
        word = await self._said.get()
        if isinstance(word, ClusterError):
            raise word
        return word

    def applied(self) -> list[int]:
        return [m.applied.sequence for m in self.sent if m.WhichOneof("said") == "applied"]


class Host:
    """Acts on assignments as slowly as the test wants."""

    def __init__(self) -> None:
        self.stamp = Stamp(incarnation=1, epoch=1, revision=0)
        self.settled = True
        self.acted: list[list[str]] = []
        self.may = asyncio.Event()
        self.begun = asyncio.Event()

    async def apply(self, stamp: Stamp, told: Assignments) -> None:
        self.begun.set()
        await self.may.wait()
        self.stamp = stamp
        self.acted.append(sorted(told.tasks))


async def talking(
    wire: Wire, host: Host, reports: Reports, test: Callable[[], Awaitable[None]]
) -> Exception:
    """Do what the test does within a session, then end it; why it ended."""
    session = Session(wire, host, reports, NodeReport, lambda _: None, 5)

    async def run() -> Exception:
        with pytest.raises(ClusterError) as caught:
            await session.run()
        return caught.value

    async with asyncio.TaskGroup() as group:
        running = group.create_task(run())
        await test()
        wire.say(Unavailable("the line is cut"))
        return await running


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to that")


async def test_words_that_come_while_it_acts_are_acted_on_together() -> None:
    wire, host = Wire(), Host()

    async def test() -> None:
        wire.assign(1, "a")
        await host.begun.wait()
        for sequence, task in enumerate("bcde", 2):
            wire.assign(sequence, task)
        await until(lambda: wire.unread == 0)
        host.may.set()
        await until(lambda: wire.applied()[-1:] == [5])

    await talking(wire, host, Reports(), test)
    assert host.acted[0] == ["a"]
    assert host.acted[-1] == ["a", "b", "c", "d", "e"]
    assert len(host.acted) == 2
    assert host.stamp.revision == 5


async def test_what_was_said_before_the_end_is_acted_on() -> None:
    wire, host = Wire(), Host()
    host.may.set()

    async def test() -> None:
        wire.assign(1, "a")
        wire.assign(2, "b")

    assert str(await talking(wire, host, Reports(), test)) == "the line is cut"
    assert host.acted[-1] == ["a", "b"]


async def test_an_acknowledgement_does_not_wait_for_what_it_acts_on() -> None:
    wire, host, reports = Wire(), Host(), Reports()

    async def test() -> None:
        wire.assign(1, "a")
        await host.begun.wait()
        reports.put(TaskID("a"), TaskStatus(state=TaskState.STARTING))
        await until(lambda: wire.sent[-1].WhichOneof("said") == "status")
        ack = dispatcher_pb2.StatusAck(sequence=wire.sent[-1].status.sequence)
        wire.say(dispatcher_pb2.ManagerMessage(status_ack=ack))
        await until(lambda: reports.settled)
        host.may.set()

    await talking(wire, host, reports, test)
    assert host.acted == [["a"]]


async def test_a_manager_that_is_behind_is_left() -> None:
    wire, host = Wire(), Host()
    host.may.set()

    async def test() -> None:
        wire.assign(1, "a", revision=9)
        wire.assign(2, "b", revision=8)

    assert "the manager is behind" in str(await talking(wire, host, Reports(), test))
    assert host.stamp.revision in (0, 9)


async def test_a_missed_word_is_asked_for_anew() -> None:
    wire, host = Wire(), Host()
    host.may.set()

    async def test() -> None:
        wire.assign(1, "a")
        wire.assign(3, "c")
        await until(lambda: any(m.WhichOneof("said") == "resync" for m in wire.sent))
        wire.assign(1, "a", "b", "c", revision=4)
        await until(lambda: wire.applied()[-1:] == [1] and len(host.acted) > 1)

    await talking(wire, host, Reports(), test)
    assert host.acted == [["a"], ["a", "b", "c"]]
