"""How users' writes happen: decide on memory, commit guarded, decide again upon a clash.

Each write begins behind the barrier and ends when this manager's memory shows it, so the next
read of the same client sees it. Where the store's answer is lost the commit finds out what
happened, and nothing is ever repeated blindly (DESIGN section 2, rule 2): what has not happened
and never will is decided again. What is decided is the callers'.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.kv import KV, OutcomeUnknown
from manager.store.memory import Memory
from shoal.model.changes import Group
from shoal.model.errors import Unavailable
from shoal.model.ids import IdSource

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Decide = Callable[[], tuple[Group, T]]
"""Looks at memory, without awaiting; gives the changes and what to answer once they stand."""

ATTEMPTS = 6
SHOW_SECONDS = 3.0

TOO_BUSY = "the objects of this request change too often to write it; try again"
NOT_KNOWN = (
    "the store did not confirm this change in time and it may still happen;"
    " look at the object before asking again"
)


class Writer:
    """Writes what deciding functions ask for."""

    def __init__(self, store: KV, memory: Memory, barrier: Barrier, ids: IdSource) -> None:
        self._memory = memory
        self._barrier = barrier
        self._commit = Commit(store, memory, ids)

    async def write(self, decide: Decide[T]) -> T:
        """Do what `decide` wants, as often as it takes; its errors are the caller's.

        Raises `Unavailable` without a quorum, or where it stays unknown whether it happened.
        """
        refused = Unavailable(TOO_BUSY, retry_after=1.0)
        for _ in range(ATTEMPTS):
            await self._barrier.reached()
            group, answer = decide()
            if not group.changes:
                return answer
            try:
                outcome = await self._commit.commit([group])
            except OutcomeUnknown as error:
                raise Unavailable(NOT_KNOWN) from error
            except Unavailable as error:
                _log.info("not written, deciding again", reason=str(error))
                refused = error
                continue
            if not outcome.clashed:
                await self._shown(outcome.revision)
                return answer
            _log.debug("write clashed, deciding again", reason=group.reason)
        raise refused

    async def _shown(self, revision: int) -> None:
        """Wait for memory; if that takes too long the write stands all the same."""
        try:
            async with asyncio.timeout(SHOW_SECONDS):
                await self._memory.reached(revision)
        except TimeoutError:
            _log.warning("memory lags behind a write", revision=revision)
