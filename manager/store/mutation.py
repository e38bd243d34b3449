"""Transactions with a deadline, and what became of one whose answer did not come.

What etcd was asked as it lost its Raft leader it answers 6 to 7 s later or never, so every
transaction is given up after `ATTEMPT`; its outcome is then unknown, and it may still happen
(DESIGN rule 2). A write that may safely come twice, because it compares what it replaces, uses
`attempt` alone. `Mutations` is for all others: each transaction puts a key of its own and
compares it as absent. To settle an unknown one, the same key is put by itself: either it is
there, then the write has happened, or it is taken away from the write, which can never happen
any more. The keys go with a lease.
"""

import asyncio

import structlog

from manager.store import kv
from manager.store.keys import mutation_key
from shoal.model.errors import Unavailable
from shoal.model.ids import IdSource

_log = structlog.get_logger(__name__)

ATTEMPT = 1.0
"""Seconds for one transaction."""

RETRY = 0.1

# An id is kept for 10 to 20 minutes: a lease of 20 is shared by the writes of its first 10.
LEASE_SECONDS = 1200
LEASE_SHARED_SECONDS = 600.0

_DONE = b"done"
_ABANDONED = b"abandoned"


async def attempt(
    store: kv.KV, compares: tuple[kv.Compare, ...], ops: tuple[kv.Op, ...]
) -> kv.TxnResult:
    """One transaction; `OutcomeUnknown` where the store does not answer in time."""
    try:
        async with asyncio.timeout(ATTEMPT):
            return await store.txn(compares, ops)
    except TimeoutError as error:
        raise kv.OutcomeUnknown(f"the store did not answer within {ATTEMPT:g} s") from error


class Mutations:
    """Transactions of one writer whose outcome is always found out."""

    def __init__(self, store: kv.KV, ids: IdSource) -> None:
        self._store = store
        self._ids = ids
        self._lease = 0
        self._lease_until = 0.0

    async def txn(
        self, compares: tuple[kv.Compare, ...], ops: tuple[kv.Op, ...]
    ) -> kv.TxnResult:
        """The transaction, once its outcome is known; takes until the store answers.

        Raises `Unavailable` where it has not happened and never will.
        """
        key = mutation_key(self._ids.new()).encode()
        absent = kv.CreateRevisionIs(key, 0)
        while True:
            mark = kv.Put(key, _DONE, await self._lease_of_ids())
            try:
                return await attempt(self._store, (*compares, absent), (*ops, mark))
            except kv.LeaseNotFound:
                self._lease = 0
            except kv.OutcomeUnknown as error:
                _log.warning("outcome of a write unknown", mutation=key, reason=str(error))
                return await self._settle(key, error)

    async def _settle(self, key: bytes, cause: kv.OutcomeUnknown) -> kv.TxnResult:
        """Ask until there is an answer; the caller's patience ends it."""
        while True:
            try:
                entry = await self._found(key)
            except kv.LeaseNotFound:
                self._lease = 0
            except Unavailable as error:
                _log.debug("cannot look a write up yet", mutation=key, reason=str(error))
                await asyncio.sleep(RETRY)
            else:
                if entry is None or entry.value != _DONE:
                    raise Unavailable("the store did not take a write in time") from cause
                return kv.TxnResult(succeeded=True, revision=entry.mod_revision)

    async def _found(self, key: bytes) -> kv.KeyValue | None:
        """The key as the store has it; None once this has taken it away from the write."""
        try:
            async with asyncio.timeout(ATTEMPT):
                there = await self._store.range(key)
        except TimeoutError as error:
            raise Unavailable("the store did not answer in time") from error
        if there.kvs:
            return there.kvs[0]
        mark = kv.Put(key, _ABANDONED, await self._lease_of_ids())
        taken = await attempt(self._store, (kv.CreateRevisionIs(key, 0),), (mark,))
        if not taken.succeeded:
            raise Unavailable("the write came in between")
        return None

    async def _lease_of_ids(self) -> int:
        now = asyncio.get_running_loop().time()
        if not self._lease or now >= self._lease_until:
            try:
                async with asyncio.timeout(ATTEMPT):
                    self._lease = (await self._store.lease_grant(LEASE_SECONDS)).id
            except (TimeoutError, kv.OutcomeUnknown) as error:
                # A lease that exists all the same ends by itself; nothing else was asked for.
                raise Unavailable("the store did not grant a lease in time") from error
            self._lease_until = now + LEASE_SHARED_SECONDS
        return self._lease
