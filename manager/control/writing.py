"""How users' writes happen: decide on memory, commit guarded, decide again upon a clash.

Each write begins behind the barrier and ends when this manager's memory shows it, so the next
read of the same client sees it. Its id is written with it: when the store's answer is lost, the
id tells whether it happened, and nothing is ever repeated blindly (DESIGN section 2, rule 2).
What is decided is the callers'.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.keys import mutation_key
from manager.store.kv import KV, LeaseNotFound, OutcomeUnknown, Put
from manager.store.memory import Memory
from shoal.model.changes import Group
from shoal.model.errors import Unavailable
from shoal.model.ids import IdSource

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Decide = Callable[[], tuple[Group, T]]
"""Looks at memory, without awaiting; gives the changes and what to answer once they stand."""

ATTEMPTS = 6
LOOKUPS = 8
LOOKUP_SECONDS = 0.25
SHOW_SECONDS = 3.0
# An id is kept for 10 to 20 minutes: a lease of 20 is shared by the writes of its first 10.
LEASE_SECONDS = 1200
LEASE_SHARED_SECONDS = 600.0

TOO_BUSY = "the objects of this request change too often to write it; try again"
NOT_KNOWN = (
    "the store did not confirm this change in time and it may still happen;"
    " look at the object before asking again"
)


class Writer:
    """Writes what deciding functions ask for."""

    def __init__(self, store: KV, memory: Memory, barrier: Barrier, ids: IdSource) -> None:
        self._store = store
        self._memory = memory
        self._barrier = barrier
        self._ids = ids
        self._commit = Commit(store, memory)
        self._lease = 0
        self._lease_until = 0.0

    async def write(self, decide: Decide[T]) -> T:
        """Do what `decide` wants, as often as it takes; its errors are the caller's.

        Raises `Unavailable` without a quorum, or where it stays unknown whether it happened.
        """
        for _ in range(ATTEMPTS):
            await self._barrier.reached()
            group, answer = decide()
            if not group.changes:
                return answer
            revision = await self._write(group)
            if revision is not None:
                await self._shown(revision)
                return answer
            _log.debug("write clashed, deciding again", reason=group.reason)
        raise Unavailable(TOO_BUSY, retry_after=1.0)

    async def _write(self, group: Group) -> int | None:
        """The revision of the write; None after a clash."""
        mutation = self._ids.new()
        try:
            try:
                outcome = await self._commit.commit([group], await self._marked(mutation))
            except LeaseNotFound:
                self._lease = 0
                outcome = await self._commit.commit([group], await self._marked(mutation))
        except OutcomeUnknown as error:
            _log.warning("outcome of a write unknown", mutation=mutation, reason=str(error))
            return await self._looked_up(mutation, error)
        return None if outcome.clashed else outcome.revision

    async def _marked(self, mutation: str) -> Put:
        now = asyncio.get_running_loop().time()
        if not self._lease or now >= self._lease_until:
            self._lease = (await self._store.lease_grant(LEASE_SECONDS)).id
            self._lease_until = now + LEASE_SHARED_SECONDS
        return Put(mutation_key(mutation).encode(), b"1", self._lease)

    async def _looked_up(self, mutation: str, cause: OutcomeUnknown) -> int:
        key = mutation_key(mutation).encode()
        for _ in range(LOOKUPS):
            try:
                found = await self._store.range(key)
            except Unavailable as error:
                _log.info("cannot look a write up yet", mutation=mutation, reason=str(error))
            else:
                if found.kvs:
                    return found.kvs[0].mod_revision
            await asyncio.sleep(LOOKUP_SECONDS)
        raise Unavailable(NOT_KNOWN) from cause

    async def _shown(self, revision: int) -> None:
        """Wait for memory; if that takes too long the write stands all the same."""
        try:
            async with asyncio.timeout(SHOW_SECONDS):
                await self._memory.reached(revision)
        except TimeoutError:
            _log.warning("memory lags behind a write", revision=revision)
