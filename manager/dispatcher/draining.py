"""Keeps the judgement of `drains` up to date, and tells the other managers of it.

Works only while a task stops that took requests: then whatever may bring its end nearer wakes
it. What this manager's sessions have applied is written for the managers that serve the
stopping tasks' nodes, once a task, under this manager's lease.
"""

import asyncio

import structlog

from manager.dispatcher.drains import NOBODY, Drains, Seat, Standing
from manager.dispatcher.networks import NetworkParts
from manager.dispatcher.presence import Presence
from manager.dispatcher.sessions import Sessions
from manager.store.codec import encode
from manager.store.keys import applied_key, session_key
from manager.store.kv import KV, LeaseNotFound, Put
from manager.store.memory import Memory
from shoal.model.changes import Event
from shoal.model.errors import Unavailable
from shoal.model.ids import NodeID
from shoal.model.objects import Applied, Node, Task

_log = structlog.get_logger(__name__)

TOGETHER_SECONDS = 0.005
"""What agents say within this time is looked at once."""
RETRY_SECONDS = 0.2


class Draining:
    """This manager's part in draining stopping tasks.

    `looks` counts how often it had to judge: never while nothing stops.
    """

    def __init__(
        self,
        kv: KV,
        memory: Memory,
        sessions: Sessions,
        presence: Presence,
        parts: NetworkParts,
        me: NodeID,
    ) -> None:
        self._kv = kv
        self._memory = memory
        self._sessions = sessions
        self._presence = presence
        self._me = me
        self._drains = Drains(me, parts)
        self._seats: dict[NodeID, Seat] | None = None
        self._written = NOBODY
        self._lease = 0
        self._woken = asyncio.Event()
        self.looks = 0

    def note(self, event: Event) -> None:
        """Take in a change of the store."""
        self._drains.note(event)
        before, after = event.before, event.after
        if isinstance(event.object, Node) and (
            not isinstance(before, Node)
            or not isinstance(after, Node)
            or before.session != after.session
        ):
            self._seats = None
        self.wake()

    def wake(self) -> None:
        """A session may have come further."""
        if self._drains:
            self._woken.set()

    def drained(self, task: Task) -> bool:
        """Whether a task gets no new requests any more."""
        return self._drains.drained(self._memory, task)

    async def run(self) -> None:
        """Judge and write until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            record = self._look()
            if record is not None:
                await self._write(record)
            await asyncio.sleep(TOGETHER_SECONDS)

    def _look(self) -> Applied | None:
        """Judge; nodes are told at once. What to write, if anything."""
        self.looks += 1
        if self._presence.lease != self._lease:
            self._written = NOBODY  # what was written has gone with the lease before
        found = self._drains.look(self._memory, self._mine(), self._seated(), self._written)
        for node in sorted(found.nodes):
            if (session := self._sessions.of(node)) is not None:
                session.wake()
        return found.record

    def _mine(self) -> dict[NodeID, Standing]:
        present = self._memory.revision
        mine = {node: Standing(0, 0) for node in self._sessions.opening}
        for session in self._sessions.open():
            reached = session.progress.reached(present, current=not session.woken.is_set())
            mine[session.node] = Standing(reached, session.revision)
        return mine

    def _seated(self) -> dict[NodeID, Seat]:
        if self._seats is None:
            self._seats = {}
            for node in self._memory.nodes():
                part = self._memory.part(session_key(node.id))
                if node.session is not None and part is not None:
                    self._seats[node.id] = Seat(node.session.manager, part.revision)
        return self._seats

    async def _write(self, record: Applied) -> None:
        lease = self._presence.lease
        if lease is None:
            return  # without one there are no sessions to speak for
        try:
            put = Put(applied_key(self._me).encode(), encode(record), lease)
            await self._kv.txn((), (put,))
        except LeaseNotFound:
            _log.info("the lease went before what the sessions applied was written")
        except Unavailable as error:
            _log.info("not written what the sessions have applied", reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)
            self._woken.set()
        else:
            self._written, self._lease = record, lease
