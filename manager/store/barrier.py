"""The barrier before a read from memory: memory shows at least what was true at the call.

One linearizable count-only read tells the store's revision; memory is waited for until it has
reached that. Reads are shared: all who wait for one to begin use it together, and nobody uses
one that began before they came. The REST handlers call it; what fills memory is `feed`.
"""

import asyncio
from collections.abc import Awaitable, Callable

from manager.store import kv
from shoal.model import errors

NO_LEADER = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too "
    "few managers are online. Make sure more than half of the managers are online."
)

PATIENCE = 3.0
"""Seconds until a caller is told that there is no leader."""

RETRY = 0.1

ATTEMPT = 1.0
"""Seconds for one read: what etcd was asked as it lost its Raft leader it may never answer."""

_PROBE = b"\0"
"""A key that nobody writes: counting it costs the store a consensus read and nothing else."""


class _Round:
    """The callers that share one read; `revision` is 0 until the read is done."""

    def __init__(self) -> None:
        self.revision = 0


class Barrier:
    """See the module. `wait_for_revision` returns once memory has reached a revision."""

    def __init__(
        self,
        store: kv.KV,
        wait_for_revision: Callable[[int], Awaitable[None]],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._store = store
        self._wait_for_revision = wait_for_revision
        self._patience = patience
        self._boarding = _Round()
        # Held across the read, so that there is one at a time and those who come meanwhile
        # gather in the next round (test_callers_during_a_read_share_the_next_one).
        self._reading = asyncio.Lock()

    async def reached(self) -> int:
        """Wait until memory shows the present; returns the revision it has reached.

        Raises `Unavailable` with Docker's sentence if that takes longer than the patience.
        """
        try:
            async with asyncio.timeout(self._patience):
                revision = await self._shared_read()
                await self._wait_for_revision(revision)
        except TimeoutError as error:
            raise errors.Unavailable(NO_LEADER, retry_after=1.0) from error
        return revision

    async def _shared_read(self) -> int:
        mine = self._boarding
        async with self._reading:
            if not mine.revision:
                # First of its round, or the one before it was cancelled in the middle. One
                # turn of the loop lets those aboard who arrive in the same moment.
                await asyncio.sleep(0)
                if self._boarding is mine:
                    self._boarding = _Round()
                mine.revision = await self._present_revision()
        return mine.revision

    async def _present_revision(self) -> int:
        """Ask until there is an answer; the caller's patience ends it."""
        while True:
            try:
                async with asyncio.timeout(ATTEMPT):
                    found = await self._store.range(_PROBE, count_only=True)
            except (TimeoutError, errors.Unavailable):
                await asyncio.sleep(RETRY)
            else:
                return found.revision
