"""Who is connected to this manager: the open sessions, and their keys in the store.

`session/<node>` names this manager and the session, attached to this manager's lease, so that
it vanishes with the manager. It is written at connect and removed at disconnect; heartbeats
never reach the store. A node that registers again, here or elsewhere, takes its session over,
and the older one ends.

Removal is `run`'s, not the stream's: gRPC may cancel a stream's handler in the middle of its
last steps, and the lease lives as long as the manager, so that a key left behind would keep a
dead node ready.
"""

import asyncio
from collections.abc import Iterable

import msgspec
import structlog

from manager.dispatcher.assignments import TaskParts
from manager.dispatcher.drains import Progress
from manager.dispatcher.presence import Presence
from manager.store.barrier import Barrier
from manager.store.codec import encode
from manager.store.keys import ROOT, describe_key, session_key
from manager.store.kv import KV, DeleteRange, ModRevisionIs, Op, Put, ValueIs
from manager.store.memory import Memory
from shoal.common.clock import Clock
from shoal.model.assignment import Assignments, Stamp
from shoal.model.errors import PermissionDenied, Unavailable
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import NodeReport, NodeSession

_log = structlog.get_logger(__name__)

REMOVE_SECONDS = 2.0
RETRY_SECONDS = 0.3
UNSURE_SECONDS = 10.0
"""For so long a write of unknown outcome may still happen: above etcd's own limit (7 s)."""


class Leftover(msgspec.Struct, frozen=True):
    """A key that is to go while it holds this value; looked for again until a loop's time."""

    key: bytes
    value: bytes
    lease: int
    until: float


class AgentSession:
    """One agent's session: what it was told last and has applied, when it was heard last.

    `stale`: it may not be what it is to be told now. `applied` is what the agent said at its
    registration that it has applied of others' words.
    """

    def __init__(
        self, node: NodeID, identity: str, revision: int, heard: float, leftover: Leftover
    ) -> None:
        self.node = node
        self.id = identity
        self.leftover = leftover
        self.revision = revision
        self.heard = heard
        self.applied: Stamp | None = None
        self.told: Assignments | None = None
        self.sequence = 0
        self.progress = Progress()
        self.tasks = TaskParts()
        self.acknowledged: list[int] = []
        self.stale = True
        self.heartbeat = 0.0
        self.paced = asyncio.Event()
        self.woken = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def patience(self) -> float:
        """How long the agent may be silent, in seconds."""
        return 2 * self.heartbeat

    def pace(self, heartbeat: float) -> bool:
        """Expect the agent that often, in seconds; whether it has to be told."""
        changed, self.heartbeat = heartbeat != self.heartbeat, heartbeat
        if changed:
            self.paced.set()
        return changed

    def wake(self) -> None:
        """Something that this node is told may have changed."""
        self.stale = True
        self.woken.set()

    def acknowledge(self, sequence: int) -> None:
        """A status update is stored (0: a heartbeat came); that is no news of other kinds."""
        self.acknowledged.append(sequence)
        self.woken.set()

    def end(self) -> None:
        """Close the session; its stream ends."""
        self.ended.set()
        self.woken.set()


class Sessions:
    """All sessions of this manager."""

    def __init__(
        self,
        kv: KV,
        memory: Memory,
        barrier: Barrier,
        presence: Presence,
        manager: NodeID,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._kv = kv
        self._memory = memory
        self._barrier = barrier
        self._presence = presence
        self._manager = manager
        self._clock = clock
        self._ids = ids
        self._open: dict[NodeID, AgentSession] = {}
        self._opening: dict[NodeID, int] = {}
        self._leftovers: list[Leftover] = []
        self._woken = asyncio.Event()
        presence.on_loss(self.end_all)

    def open(self) -> Iterable[AgentSession]:
        """The open sessions."""
        return tuple(self._open.values())

    def of(self, node: NodeID) -> AgentSession | None:
        """The open session of a node on this manager."""
        return self._open.get(node)

    @property
    def opening(self) -> Iterable[NodeID]:
        """Nodes whose session's key may be in the store already, though it is not open yet."""
        return tuple(self._opening)

    async def register(self, node: NodeID, report: NodeReport, applied: Stamp) -> AgentSession:
        """Open a session; an older one of the node ends.

        Waits until memory has reached what the agent has applied, so that a lagging manager
        never tells it to stop what it does not know of. What was applied in an earlier
        incarnation of the cluster counts no more.
        """
        lease = self._presence.lease
        if lease is None:
            raise Unavailable("this manager has no quorum at present", retry_after=1.0)
        await self._barrier.reached()
        if applied.incarnation == self._incarnation():
            await self._memory.reached(applied.revision)
        elif applied.incarnation > self._incarnation():
            raise Unavailable(
                "this manager is of a cluster that was forced anew without it", retry_after=5.0
            )
        self._opening[node] = self._opening.get(node, 0) + 1
        try:
            session = await self._opened(node, report, lease)
            session.applied = applied
            return session
        finally:
            self._opening[node] -= 1
            if not self._opening[node]:
                del self._opening[node]

    def _incarnation(self) -> int:
        cluster = self._memory.cluster()
        return cluster.incarnation if cluster is not None else 0

    async def _opened(self, node: NodeID, report: NodeReport, lease: int) -> AgentSession:
        """Write the session's key, and have the session from then on."""
        identity = self._ids.new()
        record = NodeSession(manager=self._manager, session=identity, since=self._clock.now())
        leftover = Leftover(session_key(node).encode(), encode(record), lease, 0.0)
        try:
            revision = await self._write(node, report, leftover)
        except BaseException:
            # It may have been written, or be so yet: an unknown outcome, a handler cancelled.
            until = self._time() + UNSURE_SECONDS
            self._remove(msgspec.structs.replace(leftover, until=until))
            raise
        older = self._open.pop(node, None)
        if older is not None:
            older.end()
        session = AgentSession(node, identity, revision, self._time(), leftover)
        self._open[node] = session
        _log.info("session opened", node=node, session=identity)
        return session

    async def _write(self, node: NodeID, report: NodeReport, session: Leftover) -> int:
        """Store the session's key, while the node is a member; the revision."""
        while True:
            known = self._memory.node(node)
            if known is None:
                raise PermissionDenied(
                    f"node {node} is not a member of this cluster (any more)"
                )
            ops: list[Op] = [Put(session.key, session.value, session.lease)]
            described = self._memory.part(describe_key(node))
            if described is None or described.record != report:
                ops.append(Put(describe_key(node).encode(), encode(report)))
            guard = ModRevisionIs(f"{ROOT}node/{node}".encode(), known.guard)
            result = await self._kv.txn((guard,), tuple(ops))
            if result.succeeded:
                return result.revision
            await self._memory.reached(result.revision)

    async def describe(self, session: AgentSession, report: NodeReport) -> None:
        """Store a changed description, if the session still is the node's."""
        await self._kv.txn(
            (ModRevisionIs(session_key(session.node).encode(), session.revision),),
            (Put(describe_key(session.node).encode(), encode(report)),),
        )

    async def leave(self, node: NodeID) -> None:
        """Store that the node has left the cluster; its session ends, if it is here.

        Raises:
            Unavailable, OutcomeUnknown: the store did not take it. It may be said again.
        """
        key = describe_key(node)
        await self._barrier.reached()
        while (known := self._memory.node(node)) is not None and not known.left:
            described = self._memory.part(key)
            report = described.record if described is not None else NodeReport()
            result = await self._kv.txn(
                (
                    ModRevisionIs(f"{ROOT}node/{node}".encode(), known.guard),
                    ModRevisionIs(key.encode(), described.revision if described else 0),
                ),
                (Put(key.encode(), encode(msgspec.structs.replace(report, left=True))),),
            )
            await self._memory.reached(result.revision)
        session = self._open.get(node)
        if session is not None:
            session.end()

    def close(self, session: AgentSession) -> None:
        """End a session; `run` takes its key out of the store, unless it is another's now."""
        session.end()
        if self._open.get(session.node) is session:
            del self._open[session.node]
        self._remove(session.leftover)

    async def run(self) -> None:
        """Take the keys of ended sessions out of the store, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            due, self._leftovers = self._leftovers, []
            left = [each for each in due if not await self._is_gone(each)]
            if left:
                self._leftovers.extend(left)
                await asyncio.sleep(RETRY_SECONDS)
                self._woken.set()

    def _remove(self, leftover: Leftover) -> None:
        self._leftovers.append(leftover)
        self._woken.set()

    async def _is_gone(self, leftover: Leftover) -> bool:
        """Remove a key, if it is what was left; whether nothing more is to be done about it."""
        if leftover.lease != self._presence.lease:
            return True  # the store removes it, with the lease
        guard = ValueIs(leftover.key, leftover.value)
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                result = await self._kv.txn((guard,), (DeleteRange(leftover.key),))
        except (TimeoutError, Unavailable) as error:
            _log.info("a session's key is not removed yet", reason=str(error))
            return False
        return result.succeeded or self._time() >= leftover.until

    def heard(self, session: AgentSession) -> None:
        """The agent spoke."""
        session.heard = self._time()

    def silent(self, session: AgentSession) -> float:
        """Seconds until the session counts as silent; <= 0: it does."""
        return session.heard + session.patience - self._time()

    def end_all(self) -> None:
        """End every session: this manager can no longer speak for the store."""
        for session in self._open.values():
            session.end()

    def _time(self) -> float:
        return asyncio.get_running_loop().time()
