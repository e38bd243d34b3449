"""The seam to the replicated store: bytes, revisions, transactions, watches, leases, members.

It says what the rest of the store may rely on, in etcd's own terms, and nothing about objects
(`codec`, `keys`) or about when to read and write (`feed`, `commit`, `barrier`, `election`).
Two implementations pass one suite, `tests/contract/test_kv.py`: `etcd.EtcdKV` on a real etcd,
`simulated.SimulatedKV` in memory for the deterministic simulation.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

from msgspec import Struct

from shoal.model import errors

MAX_TXN_OPS = 4096
MAX_REQUEST_BYTES = 4_194_304


class OutcomeUnknown(errors.Unavailable):
    """A mutation was sent and no answer came: it may have happened, or may happen yet."""


class Compacted(errors.ClusterError):
    """History before `revision` is gone: list again, then watch from the list's revision + 1.

    Raised within the store only; `feed` and `election` end it.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(f"the store's history before revision {revision} has been compacted")
        self.revision = revision


class LeaseNotFound(errors.NotFound):
    """The lease has expired or was revoked; every key attached to it is gone."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"lease {lease:016x} not found: it has expired or was revoked")
        self.lease = lease


class KeyValue(Struct, frozen=True, gc=False):
    """One key as of some revision. A deleted key in an event has only `key`, `mod_revision`."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Span(Struct, frozen=True, gc=False):
    """All keys of the half-open interval `start <= key < end`; an `end` of b"" is no bound."""

    start: bytes
    end: bytes = b""

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


class Prefix(Struct, frozen=True, gc=False):
    """All keys that begin with `value`; `Prefix(b"")` is the whole keyspace."""

    value: bytes


Selector = bytes | Prefix | Span
"""One key, the keys under a prefix, or an interval of keys."""


def span_of(prefix: Prefix) -> Span:
    """The interval that holds exactly the keys under a prefix.

    >>> span_of(Prefix(b"task/"))
    Span(start=b'task/', end=b'task0')
    """
    head = prefix.value.rstrip(b"\xff")
    if not head:
        return Span(prefix.value)
    return Span(prefix.value, head[:-1] + bytes([head[-1] + 1]))


def as_span(select: Selector) -> Span:
    """Any selector as an interval; a single key is the interval that holds only it."""
    match select:
        case bytes():
            return Span(select, select + b"\0")
        case Prefix():
            return span_of(select)
        case Span():
            return select


class ModRevisionIs(Struct, frozen=True, gc=False):
    """The key was last written at `revision`; 0 means that the key does not exist."""

    key: bytes
    revision: int


class CreateRevisionIs(Struct, frozen=True, gc=False):
    """Every selected key was created at `revision`; 0 means that no selected key exists.

    With a prefix and 0 it is the test for "nothing refers to this".
    """

    select: Selector
    revision: int


class ValueIs(Struct, frozen=True, gc=False):
    """The key exists and holds exactly this value."""

    key: bytes
    value: bytes


Compare = ModRevisionIs | CreateRevisionIs | ValueIs


class Put(Struct, frozen=True, gc=False):
    """Write a key. Without a lease the key loses the one it had."""

    key: bytes
    value: bytes
    lease: int = 0


class DeleteRange(Struct, frozen=True, gc=False):
    """Delete what is selected; deleting nothing is no error."""

    select: Selector


class Get(Struct, frozen=True, gc=False):
    """Read inside a transaction; sees the writes that stand before it."""

    select: Selector
    keys_only: bool = False
    count_only: bool = False


Op = Put | DeleteRange | Get


class Written(Struct, frozen=True, gc=False):
    """The answer to a `Put`."""


class Deleted(Struct, frozen=True, gc=False):
    """The answer to a `DeleteRange`: how many keys went."""

    count: int


class RangeResult(Struct, frozen=True, gc=False):
    """What a read found, ascending by key.

    `revision` is the store's at the time of the read, also when an older one was asked for;
    `count` is what the selector matches regardless of `limit`; `more` says that `limit` cut.
    """

    revision: int
    kvs: tuple[KeyValue, ...]
    count: int
    more: bool = False


Response = Written | Deleted | RangeResult


class TxnResult(Struct, frozen=True, gc=False):
    """`revision` is the transaction's own if it wrote anything, else the store's present."""

    succeeded: bool
    revision: int
    responses: tuple[Response, ...] = ()


class Event(Struct, frozen=True, gc=False):
    """One key was put or deleted. `prev` is the key before it, if the watch asked for it."""

    kv: KeyValue
    deleted: bool = False
    prev: KeyValue | None = None


class WatchResponse(Struct, frozen=True, gc=False):
    """Whole revisions, in order: every selected event up to and including `revision` has come.

    No events means progress only. `revision` is computed from the events, not etcd's header:
    while a watch catches up, the header already names the store's present revision, though up
    to 1,000 revisions a response are still to come; resuming from it would lose them.
    """

    revision: int
    events: tuple[Event, ...] = ()


class Lease(Struct, frozen=True, gc=False):
    """A lease as granted. `ttl` in seconds may be more than was asked for, never less."""

    id: int
    ttl: int


class LeaseState(Struct, frozen=True, gc=False):
    """What is left of a lease, in whole seconds, and the keys that go with it."""

    remaining: int
    granted: int
    keys: tuple[bytes, ...]


class Status(Struct, frozen=True, gc=False):
    """The member at the other end. `leader` is a member id, 0 while there is none."""

    member: int
    leader: int
    raft_term: int
    version: str
    db_size: int
    db_size_in_use: int
    is_learner: bool


class Member(Struct, frozen=True, gc=False):
    """A member of the Raft group; `name` is empty until it has started once."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False


class Watch(Protocol):
    """An open watch. Iterate it; it never ends by itself, it raises.

    `Compacted` if the start revision is gone; `Unavailable` if the stream broke or its member
    lost the leader: open a new one from the last response's revision + 1.
    """

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> WatchResponse: ...

    async def request_progress(self) -> None:
        """Ask for a response without events that says how far this watch is.

        A hint: it may stay unanswered while the watch catches up. Raises `Unimplemented` where
        the server's answer cannot be trusted: before etcd 3.4.25 and 3.5.8 the answer overtakes
        events (measured; etcd issue 15220). So nothing may depend on it: watch the whole
        keyspace instead, where every revision brings an event.
        """
        ...


class KV(Protocol):
    """A linearizable store of bytes with one revision for all keys.

    *Revisions.* One counter; each transaction that writes anything advances it by one, however
    many keys it writes. It starts at 1 and never goes back while the store lives.

    *Deadlines* are the caller's (`asyncio.timeout`); each call also has one of its own, after
    which it raises `Unavailable`. A mutation that the caller's timeout or a cancellation cut
    off has an unknown outcome, exactly as after `OutcomeUnknown`.

    *Errors.* `OutcomeUnknown`: a mutation may or may not have happened; never repeat it
    blindly. Any other `Unavailable`: nothing happened, repeating is safe. `InvalidArgument`:
    empty key, a key written twice in one branch, more than the server's limit of operations or
    bytes, a future revision. `Compacted`, `LeaseNotFound` as said there. `ResourceExhausted`:
    the store is full; nothing happened.
    """

    async def range(
        self,
        select: Selector,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
    ) -> RangeResult:
        """Read, by default linearizably: no earlier state than at the call.

        `revision` reads the past, `limit` 0 is none. `serializable` asks this member alone, so
        it answers without a quorum and possibly from the past.
        """
        ...

    async def txn(
        self,
        compares: tuple[Compare, ...],
        success: tuple[Op, ...],
        failure: tuple[Op, ...] = (),
    ) -> TxnResult:
        """Do `success` if all compares hold, else `failure`: atomically, at one revision.

        Within a branch no key may be put twice, nor put and deleted.
        """
        ...

    def watch(
        self, select: Selector, *, start_revision: int, prev: bool = False
    ) -> AbstractAsyncContextManager[Watch]:
        """All changes of the selected keys from `start_revision` (at least 1) on.

        One selector only: the server does not keep a transaction together across several. The
        first response may be awaited for ever, so entering waits for the server's consent.
        """
        ...

    async def lease_grant(self, ttl: int) -> Lease:
        """A new lease. After `OutcomeUnknown` a forgotten one may exist until it expires.

        The server has a minimum of 1.5 election timeouts, rounded up to whole seconds: 1 s
        with a timeout of 500 ms, 2 s with etcd's default of 1 s.
        """
        ...

    async def lease_keepalive(self, lease: int) -> int:
        """Renew; returns the seconds that the lease now has. Safe to repeat."""
        ...

    async def lease_revoke(self, lease: int) -> None:
        """End a lease and delete its keys, in one revision."""
        ...

    async def lease_time_to_live(self, lease: int) -> LeaseState:
        """What is left of a lease."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`. Raises `Compacted` if that was done already."""
        ...

    async def defragment(self) -> None:
        """Give the file's free space back. The member answers nobody meanwhile."""
        ...

    async def status(self) -> Status:
        """The member at the other end, asked without a quorum."""
        ...

    async def member_list(self) -> tuple[Member, ...]:
        """The members as this one knows them, by id; may be from the past."""
        ...

    async def member_add_learner(self, peer_urls: tuple[str, ...]) -> Member:
        """Add a member without a vote. etcd 3.4 has one at a time: `FailedPrecondition`."""
        ...

    async def member_promote(self, member: int) -> None:
        """Let a learner vote. `FailedPrecondition` until it has caught up."""
        ...

    async def member_remove(self, member: int) -> None:
        """Remove a member. `FailedPrecondition` where that would endanger the quorum."""
        ...

    async def member_update(self, member: int, peer_urls: tuple[str, ...]) -> None:
        """Replace a member's peer addresses."""
        ...


async def pages(kv: KV, select: Selector, *, size: int = 2000) -> AsyncIterator[RangeResult]:
    """Read a large range in pages that all show one and the same revision.

    The first page's `revision` is the one shown; watch from there + 1. Raises `Compacted` if
    the reading takes longer than history is kept.
    """
    span = as_span(select)
    page = await kv.range(span, limit=size)
    shown = page.revision
    yield page
    while page.more:
        rest = Span(page.kvs[-1].key + b"\0", span.end)
        page = await kv.range(rest, limit=size, revision=shown)
        yield page
