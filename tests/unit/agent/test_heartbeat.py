"""An agent's session keeps the rhythm it is told, and gives a silent manager up."""

import asyncio

import pytest

from agent.report import Reports
from agent.session import Session
from proto import dispatcher_pb2
from shoal.model.assignment import Assignments, Stamp
from shoal.model.errors import Unavailable
from shoal.model.objects import NodeReport

pytestmark = pytest.mark.looptime


class Manager:
    """The other end of the line: answers heartbeats until it is told to be silent."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[dispatcher_pb2.ManagerMessage] = asyncio.Queue()
        self.beats: list[float] = []
        self.silent = False

    def welcome(self, heartbeat: float) -> None:
        welcome = dispatcher_pb2.Welcome(session_id="s", heartbeat_ns=int(heartbeat * 1e9))
        self.said.put_nowait(dispatcher_pb2.ManagerMessage(welcome=welcome))

    async def write(self, message: dispatcher_pb2.AgentMessage) -> None:
        if message.WhichOneof("said") == "heartbeat":
            self.beats.append(asyncio.get_running_loop().time())
            if not self.silent:
                acknowledged = dispatcher_pb2.HeartbeatAck()
                self.said.put_nowait(dispatcher_pb2.ManagerMessage(heartbeat_ack=acknowledged))

    async def read(self) -> dispatcher_pb2.ManagerMessage:
        return await self.said.get()


class Listener:
    stamp = Stamp(incarnation=0, epoch=0, revision=0)
    settled = True

    async def apply(self, stamp: Stamp, told: Assignments) -> None:
        return


async def test_the_rhythm_is_the_managers() -> None:
    manager = Manager()
    manager.welcome(1)
    session = Session(manager, Listener(), Reports(), NodeReport, lambda _: None, 5.0)
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(outcome(session))
        await asyncio.sleep(2.5)
        assert gaps(manager, began) == [0, 1, 2]
        manager.welcome(20)  # the cluster's setting has changed
        await asyncio.sleep(60)
        assert gaps(manager, began)[3:] == [22, 42, 62]
        manager.welcome(1)  # at once, not in 20 s
        await asyncio.sleep(1)
        assert gaps(manager, began)[6:] == [63]
        manager.silent = True
        await running
    lost = asyncio.get_running_loop().time() - began
    assert lost < 63.5 + 4


def gaps(manager: Manager, began: float) -> list[float]:
    return [round(beat - began, 3) for beat in manager.beats]


async def outcome(session: Session) -> None:
    with pytest.raises(Unavailable):
        await session.run()
