"""This host's life as a node: keeps a session with some manager while it has an identity.

`ClusterAgent` puts worker and session together. The composition root makes one when
the host has an identity, calls `restore` before the engine adopts its containers, runs `run` in
its TaskGroup, and drops it after `leave`. Getting an identity (init, join) and giving it up is
its owner's. No manager in reach is no trouble: the tasks go on by the journal.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

import msgspec
import structlog

from agent.managers import Managers
from agent.session import Line, Session
from agent.worker import Worker
from shoal.common.backoff import Backoff
from shoal.common.identity import CurrentIdentity, Identity
from shoal.common.supervise import stoppable_group
from shoal.model.assignment import Assignments, ManagerAddress, Stamp
from shoal.model.errors import ClusterError, PermissionDenied
from shoal.model.ids import ClusterID, NodeID
from shoal.model.objects import NodeReport

_log = structlog.get_logger(__name__)

RECONNECT = Backoff(first=0.1, factor=2.0, cap=2.0, jitter=0.5)
PATIENCE = Backoff(first=0.75, factor=2.0, cap=12.0, jitter=0.0)
"""Seconds that a manager has for connection and welcome, growing with failures in a row.

Little at first: one that has just lost its store lets its callers wait, and a node may be
without a session for 3.5 s. Much in the end: managers under load, or far away, are slow.
"""
DENIALS = 2
"""So many refusals in a row, by any managers, mean that the node was removed."""

Dial = Callable[[str, Identity, float], AbstractAsyncContextManager[Line]]
"""Opens a line to the manager at an address; Unavailable if not within so many seconds."""

LocalState = Literal["pending", "active", "error"]


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """This node's membership as `docker info` shows it.

    `manager` is the address of the one that serves this node now, empty without a session.
    """

    node_id: NodeID
    cluster_id: ClusterID
    role: str
    local_state: LocalState
    manager: str = ""
    managers: tuple[ManagerAddress, ...] = ()
    error: str = ""


class ClusterAgent:
    """One node of one cluster.

    Args:
        dial: opens a line to a manager.
        managers: addresses to try first, where the journal knows none: where it joined.
        describe: what this node is; asked for again at each session and each status.
        told: called with the new set after it was applied: role, managers.
    """

    def __init__(
        self,
        current: CurrentIdentity,
        worker: Worker,
        dial: Dial,
        managers: Sequence[ManagerAddress],
        describe: Callable[[], NodeReport],
        chance: random.Random,
        told: Callable[[Assignments], None] | None = None,
    ) -> None:
        self._current = current
        self._worker = worker
        self._dial = dial
        self._first_managers = tuple(managers)
        self._managers = Managers(managers)
        self._describe = describe
        self._chance = chance
        self._told = told
        self._session: Session | None = None
        self._serving = ""
        self._was_open = False
        self._error = ""
        self._denials = 0

    @property
    def worker(self) -> Worker:
        """The tasks of this node."""
        return self._worker

    def state(self) -> NodeView:
        """Where this node's membership stands."""
        identity = self._current.get()
        return NodeView(
            node_id=identity.node_id,
            cluster_id=identity.cluster_id,
            role=self._worker.assignments.role,
            local_state=self._local_state(),
            manager=self._serving,
            managers=self._worker.assignments.managers.managers or self._first_managers,
            error=self._error,
        )

    def _local_state(self) -> LocalState:
        if self._denials >= DENIALS:
            return "error"
        return "active" if self._was_open or self._worker.stamp.revision else "pending"

    def manager_addresses(self) -> tuple[str, ...]:
        """For calls of others (certificate renewal): all managers, the most trusted first."""
        return self._managers.addresses()

    def learn(self, managers: Sequence[ManagerAddress]) -> None:
        """These are the managers, as somebody else came to know; the next assignment counts."""
        self._first_managers = tuple(managers)
        self._managers.replace(managers)

    def described(self) -> None:
        """What `describe` says has changed; the manager is told."""
        if self._session is not None:
            self._session.wake()

    async def restore(self) -> None:
        """Take up the journal: mesh, ports, tasks. Before the engine adopts."""
        await self._worker.restore()
        self._managers.replace(self._worker.assignments.managers.managers)

    async def run(self) -> None:
        """Be a node until cancelled.

        Raises:
            PermissionDenied: the cluster does not know this node any more. Its containers are
                left as they are: `leave` removes them.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._worker.run(), name="worker")
                await self._keep_session()
        except ExceptionGroup as group_error:
            for error in group_error.exceptions:
                if isinstance(error, PermissionDenied):
                    raise PermissionDenied(str(error)) from group_error
            raise

    async def leave(self) -> None:
        """Remove all tasks, mesh, ports and the journal. When `run` has ended."""
        async with stoppable_group() as group:
            group.start(self._worker.run(), name="worker")
            await self._worker.remove_all()
            group.stop()
        await self._worker.release()

    # -- sessions
    # ------------------------------------------------------------------------

    async def _keep_session(self) -> None:
        delays, patience = self._fresh()
        address = ""
        while True:
            identity = self._current.get()
            address = self._managers.choose(self._chance, avoid=address)
            opened = await self._talk(address, identity, next(patience))
            if self._current.get() is not identity:
                address = ""
                continue
            if opened:
                delays, patience = self._fresh()
            await asyncio.sleep(next(delays))

    def _fresh(self) -> tuple[Iterator[float], Iterator[float]]:
        """Pauses between attempts, and the patience with each, from their beginning."""
        return RECONNECT.delays(self._chance), PATIENCE.delays(self._chance)

    async def _talk(self, address: str, identity: Identity, patience: float) -> bool:
        """One session, until it ends or the identity changes; whether it was opened."""
        if not address:
            self._error = "no manager is known"
            return False
        error = await self._session_with(address, identity, patience)
        opened = self._serving != ""
        self._serving, self._session = "", None
        if error is None:
            return opened
        self._managers.failed(address)
        self._error = str(error)
        _log.warning("session ended", manager=address, opened=opened, reason=str(error))
        if isinstance(error, PermissionDenied):
            self._denials += 1
            if self._denials >= DENIALS:
                raise error
        return opened

    async def _session_with(
        self, address: str, identity: Identity, patience: float
    ) -> ClusterError | None:
        """None when another identity ended it."""
        failure: ClusterError | None = None
        async with stoppable_group() as group:
            group.start(self._until_renewed(identity, group.stop), name="renewed")
            try:
                async with self._dial(address, identity, patience) as line:
                    await self._converse(line, address, patience)
            except ClusterError as error:
                failure = error
            group.stop()
        return failure

    async def _converse(self, line: Line, address: str, patience: float) -> None:
        self._session = Session(
            line,
            _Told(self._worker, self._on_told),
            self._worker.reports,
            self._describe,
            lambda identity: self._on_open(address, identity),
            patience,
        )
        await self._session.run()

    async def _until_renewed(self, identity: Identity, stop: Callable[[], None]) -> None:
        await self._current.changed(identity)
        stop()

    def _on_open(self, address: str, session: str) -> None:
        self._managers.succeeded(address)
        self._serving, self._was_open, self._error, self._denials = address, True, "", 0
        _log.info("session opened", manager=address, session=session)

    def _on_told(self, told: Assignments) -> None:
        self._managers.replace(told.managers.managers)
        if self._told is not None:
            self._told(told)


class _Told:
    """The worker, and then whoever else wants to know."""

    def __init__(self, worker: Worker, after: Callable[[Assignments], None]) -> None:
        self._worker = worker
        self._after = after

    @property
    def stamp(self) -> Stamp:
        return self._worker.stamp

    @property
    def settled(self) -> bool:
        return self._worker.settled

    async def apply(self, stamp: Stamp, told: Assignments) -> None:
        await self._worker.apply(stamp, told)
        self._after(told)
