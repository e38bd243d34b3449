"""Links between hosts, and the one stream of an agent's session over them, without gRPC.

A stream keeps its order, as TCP does. Across streams anything goes: each message takes its own
time, a cut holds messages back and delivers them late, long after another session was opened;
a stream may break and take what was under way with it, which is how messages are lost. Those
that the protocol numbers or may repeat also come twice.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Self, TypeVar

from msgspec import Struct

from proto import dispatcher_pb2
from proto.convert import from_message
from shoal.model.assignment import Stamp
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.ids import NodeID

CONNECT_SECONDS = 2.0

AgentMessage = dispatcher_pb2.AgentMessage
ManagerMessage = dispatcher_pb2.ManagerMessage
Write = Callable[[ManagerMessage], Awaitable[None]]
Serve = Callable[[NodeID, AsyncIterator[AgentMessage], Write], Awaitable[None]]
M = TypeVar("M", AgentMessage, ManagerMessage)


class Weather(Struct):
    """What messages meet; delays in seconds, the rest probabilities a message.

    `late`: after a manager's word comes one that this or another one said long ago. No TCP does
    that: what is left then is the stamp of each word.
    """

    delay: tuple[float, float] = (0.0005, 0.005)
    twice: float = 0.0
    late: float = 0.0
    breaks: float = 0.0


class _End(Struct, frozen=True):
    """The end of a stream, as a message."""

    why: ClusterError


class Pipe(Generic[M]):
    """One direction of a stream. It is closed when its end has arrived."""

    def __init__(self, network: "Network", origin: str, target: str) -> None:
        self._network = network
        self._origin = origin
        self._target = target
        self._sent: deque[M | _End] = deque()
        self._arrived: deque[M | _End] = deque()
        self._moved = asyncio.Event()
        self._come = asyncio.Event()

    def put(self, item: M | _End) -> None:
        self._sent.append(item)
        self._moved.set()

    def cut_short(self, why: ClusterError) -> None:
        """It ends here and now; what is under way is lost."""
        self._sent.clear()
        self._arrived.clear()
        self._arrive(_End(why))

    def _arrive(self, item: M | _End) -> None:
        self._arrived.append(item)
        self._come.set()

    async def carry(self, broken: Callable[[], None]) -> None:
        """Deliver until the end, or until it breaks."""
        chance = self._network.chance
        while True:
            while not self._sent:
                self._moved.clear()
                await self._moved.wait()
            await self._network.travel(self._origin, self._target)
            weather = self._network.weather
            while self._sent:  # what was sent meanwhile comes along
                item = self._sent.popleft()
                if isinstance(item, _End):
                    self._arrive(item)
                    return
                if weather.breaks and chance.random() < weather.breaks:
                    broken()
                    return
                self._arrive(item)
                older = self._network.recall(self._target, item)
                if older is not None:
                    self._arrive(older)  # type: ignore[arg-type]
                if _repeatable(item) and weather.twice and chance.random() < weather.twice:
                    self._arrive(item)

    async def take(self) -> M:
        while not self._arrived:
            self._come.clear()
            await self._come.wait()
        item = self._arrived[0]
        if isinstance(item, _End):
            raise item.why
        self._arrived.popleft()
        return item


def _repeatable(item: AgentMessage | ManagerMessage) -> bool:
    return item.WhichOneof("said") not in ("register", "welcome")


class Stream:
    """The call of one session: the agent's `Line`, and what the manager reads and writes."""

    def __init__(self, network: "Network", node: NodeID, address: str) -> None:
        self.node = node
        self.address = address
        self.up: Pipe[AgentMessage] = Pipe(network, node, address)
        self.down: Pipe[ManagerMessage] = Pipe(network, address, node)
        self._network = network
        self._applied: Stamp | None = None
        self._served: asyncio.Task[None] | None = None

    # -- the agent's end

    async def write(self, message: AgentMessage) -> None:
        if message.WhichOneof("said") == "register":
            self._applied = from_message(message.register.applied, Stamp)
        self.up.put(message)

    async def read(self) -> ManagerMessage:
        return await self.down.take()

    def hang_up(self) -> None:
        self.up.put(_End(Unavailable("the agent hung up")))

    # -- the manager's end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentMessage:
        try:
            return await self.up.take()
        except ClusterError:
            # gRPC cancels the handler of a call whose client is gone.
            if self._served is not None:
                self._served.cancel()
            await asyncio.Event().wait()
            raise

    async def tell(self, message: ManagerMessage) -> None:
        if message.WhichOneof("said") == "assignments" and self._applied is not None:
            stamp = from_message(message.assignments.stamp, Stamp)
            self._network.speaks(self.address, self.node, self._applied, stamp)
        self.down.put(message)

    async def serve(self, serve: Serve) -> None:
        self._served = asyncio.current_task()
        why: ClusterError = Unavailable("the manager is gone")
        try:
            await serve(self.node, self, self.tell)
            why = Unavailable("the manager ended the session")
        except ClusterError as error:
            why = error
        except ExceptionGroup as group:
            found = _first(group)
            if not isinstance(found, ClusterError):
                raise
            why = found
        finally:
            self.down.put(_End(why))

    # -- both ends

    def break_off(self) -> None:
        """Both ends learn that the connection is no more; what was under way is lost."""
        self.down.cut_short(Unavailable("the connection broke"))
        self.up.cut_short(Unavailable("the connection broke"))


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class Network:
    """All hosts by address; a pair of them may be cut. Runs in the world's TaskGroup."""

    def __init__(self, chance: random.Random, group: asyncio.TaskGroup) -> None:
        self.chance = chance
        self.weather = Weather()
        self._group = group
        self._listening: dict[str, Serve] = {}
        self._streams: dict[Stream, tuple[asyncio.Task[None], ...]] = {}
        self._cut: dict[tuple[str, str], None] = {}
        self._idle: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._said: dict[str, deque[ManagerMessage]] = {}
        self.speaks: Callable[[str, NodeID, Stamp, Stamp], None] = lambda *_: None

    def recall(self, target: str, item: object) -> ManagerMessage | None:
        """A whole set that some manager told this node of once; by chance, and not often."""
        if not isinstance(item, ManagerMessage) or item.WhichOneof("said") != "assignments":
            return None
        said = self._said.setdefault(target, deque(maxlen=4))
        older = None
        if said and self.weather.late and self.chance.random() < self.weather.late:
            older = said[0]
        if item.assignments.complete:
            said.append(item)
        return older

    def change_weather(self, weather: Weather) -> None:
        self.weather = weather

    # -- links

    def cut(self, one: str, other: str) -> None:
        self._cut[_pair(one, other)] = None

    def mend(self, one: str, other: str) -> None:
        self._cut.pop(_pair(one, other), None)
        self._wake()

    def mend_all(self) -> None:
        self._cut.clear()
        self._wake()

    def linked(self, one: str, other: str) -> bool:
        return one == other or _pair(one, other) not in self._cut

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def travel(self, one: str, other: str) -> None:
        """As long as a message takes, or until there is a way again."""
        await asyncio.sleep(self.chance.uniform(*self.weather.delay))
        while not self.linked(one, other):
            await self._changed.wait()

    # -- managers that listen

    def listen(self, address: str, serve: Serve) -> None:
        self._listening[address] = serve

    def close(self, address: str) -> None:
        """The manager there has died: its ends of all streams are gone."""
        self._listening.pop(address, None)
        for stream, (served, *_) in tuple(self._streams.items()):
            if stream.address == address:
                served.cancel()

    def break_off(self, host: str) -> None:
        """All connections of a host's agent break; what was under way is lost."""
        for stream in self._streams:
            if stream.node == host:
                stream.break_off()

    def lose_power(self, host: str) -> None:
        """Nothing of what the host had under way will ever arrive, nor an end."""
        self._idle.pop(host, None)
        for stream, tasks in tuple(self._streams.items()):
            if stream.node == host:
                for task in tasks[1:]:
                    task.cancel()
            elif stream.address == host:
                for task in tasks:
                    task.cancel()

    def idle(self, host: str) -> None:
        """Its agent is gone, and its kernel refuses what is for it."""
        self._idle[host] = None

    def busy(self, host: str) -> None:
        """Its agent is there."""
        self._idle.pop(host, None)

    async def refuses(self, origin: str, address: str) -> bool:
        """The probe of an agent's port."""
        await asyncio.sleep(self.chance.uniform(*self.weather.delay))
        return self.linked(origin, address) and address in self._idle

    async def answers(self, origin: str, address: str) -> bool:
        """The probe of a leader's port."""
        await asyncio.sleep(self.chance.uniform(*self.weather.delay))
        return self.linked(origin, address) and address in self._listening

    @asynccontextmanager
    async def dialled(
        self, node: NodeID, address: str, patience: float
    ) -> AsyncIterator[Stream]:
        """A session's line from a node to a manager."""
        try:
            async with asyncio.timeout(min(CONNECT_SECONDS, patience)):
                await self.travel(node, address)
        except TimeoutError as error:
            raise Unavailable(f"no answer within {patience:g} s") from error
        serve = self._listening.get(address)
        if serve is None:
            raise Unavailable("connection refused")
        stream = Stream(self, node, address)
        self._streams[stream] = tuple(
            self._group.create_task(work)
            for work in (
                stream.serve(serve),
                stream.up.carry(stream.break_off),
                stream.down.carry(stream.break_off),
            )
        )
        try:
            yield stream
        finally:
            stream.hang_up()


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
