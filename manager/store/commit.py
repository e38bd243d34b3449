"""Groups of changes to guarded transactions: the only way objects are written.

Groups of one commit that touch the same object become one (a task that was created and then
assigned is written once). Each change compares the revision it was decided on, each guard key
that is taken must be free, each object that is referred to must exist, each object that is
deleted must not be referred to; the leader's writes also compare the epoch. Groups are packed
into transactions by operations and bytes, never split. Any prefix of the groups is a correct
state. When a transaction clashes its groups are tried in halves, so that only the clashing ones
are decided again. What became of each transaction is always found out (`mutation`).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from manager.store import keys
from manager.store.codec import encode, encode_object
from manager.store.kv import (
    KV,
    Compare,
    CreateRevisionIs,
    DeleteRange,
    ModRevisionIs,
    Op,
    OutcomeUnknown,
    Prefix,
    Put,
    Selector,
    TxnResult,
)
from manager.store.memory import Memory
from manager.store.mutation import Mutations
from shoal.model.changes import Change, Create, Delete, Group
from shoal.model.errors import Unavailable
from shoal.model.ids import IdSource
from shoal.model.objects import Config, Network, Node, Secret, Service, StoredObject, Task

# etcd's default limit of 128 operations counts compares and operations of one branch apart;
# these stay well below the limits that our own members run with (DESIGN rule 8).
MAX_OPS = 2000
MAX_BYTES = 1_500_000
KNOWN_SECONDS = 5.0  # how long a user waits to be told what became of a write
NEVER = 1 << 62  # a revision that no key has: the compare fails


class Outcome(msgspec.Struct, frozen=True):
    """What became of a commit: its revision, and the groups (by position) not written.

    Those clashed, or the store took no more after the others.
    """

    revision: int
    clashed: frozenset[int] = frozenset()


class Prepared(msgspec.Struct):
    """Merged groups as compares and operations, and the positions of the groups in them."""

    origins: tuple[int, ...]
    compares: list[Compare]
    ops: list[Op]

    @property
    def size(self) -> int:
        """Bytes of keys and values, roughly as on the wire."""
        return sum(len(op.key) + len(op.value) + 16 for op in self.ops if isinstance(op, Put))

    @property
    def count(self) -> int:
        return max(len(self.compares), len(self.ops))


class Commit:
    """Writes decisions. One instance a writer: the leader's carries its epoch.

    Args:
        kv: the store.
        memory: the fed copy that the changes were decided on.
        ids: for the ids of transactions (`mutation`).
        epoch: (leader key, its create revision) that must still hold, None for users' writes.
    """

    def __init__(
        self, kv: KV, memory: Memory, ids: IdSource, epoch: tuple[bytes, int] | None = None
    ) -> None:
        self._memory = memory
        self._mutations = Mutations(kv, ids)
        self._fence: list[Compare] = (
            [CreateRevisionIs(epoch[0], epoch[1])] if epoch is not None else []
        )

    async def commit(self, groups: Sequence[Group]) -> Outcome:
        """Write the groups in order.

        Raises `Unavailable` where nothing was written and nothing will be. A lost epoch shows
        as a clash of every group. For a leader it takes as long as it takes to know, since its
        next decision must not be made without; for others `OutcomeUnknown` ends it.
        """
        prepared = [self._prepare(where, changes) for where, changes in merge(groups)]
        for one in prepared:
            one.compares.extend(self._needed(groups[where] for where in one.origins))
        try:
            async with asyncio.timeout(None if self._fence else KNOWN_SECONDS):
                return await write(self._mutations.txn, self._fence, prepared)
        except TimeoutError as error:
            raise OutcomeUnknown(f"no answer within {KNOWN_SECONDS:g} s") from error

    def _needed(self, groups: Iterable[Group]) -> Iterable[Compare]:
        """What the groups need, unchanged; their own write of it with them is no change."""
        needed = [identity for group in groups for identity in group.needs]
        for identity in dict.fromkeys(needed):
            thing = self._memory.find(identity)
            if thing is not None:
                yield ModRevisionIs(keys.object_key(thing).encode(), thing.guard)

    def _prepare(self, origins: tuple[int, ...], changes: Iterable[Change]) -> Prepared:
        prepared = Prepared(origins, [], [])
        for change in changes:
            self._add(prepared, change)
        return prepared

    def _add(self, into: Prepared, change: Change) -> None:
        thing = change.object
        key = keys.object_key(thing).encode()
        before = self._memory.find(thing.id)
        held = keys.guard_keys(before) if before is not None else frozenset()
        wanted: frozenset[str] = frozenset()
        into.compares.append(
            ModRevisionIs(key, 0 if isinstance(change, Create) else thing.guard)
        )
        if isinstance(change, Delete) or (isinstance(thing, Network) and thing.pending_delete):
            into.compares.extend(_unreferred(thing))
        if isinstance(change, Delete):
            into.ops.extend(DeleteRange(name) for name in _stored_under(thing, key))
        else:
            into.ops.append(Put(key, encode_object(thing)))
            wanted = keys.guard_keys(thing)
            into.ops.extend(_specs(thing, before))
            into.compares.extend(self._referents(thing, before))
        for guard in sorted(wanted - held):
            into.compares.append(CreateRevisionIs(guard.encode(), 0))
            into.ops.append(Put(guard.encode(), thing.id.encode()))
        into.ops.extend(DeleteRange(guard.encode()) for guard in sorted(held - wanted))

    def _referents(self, thing: StoredObject, before: StoredObject | None) -> Iterable[Compare]:
        """What it newly refers to must be there as memory knows it."""
        if not isinstance(thing, Service | Task):
            return
        known = keys.references(before) if isinstance(before, Service | Task) else {}
        for key in sorted(keys.references(thing)):
            if key not in known:
                part = self._memory.part(key)
                yield ModRevisionIs(key.encode(), part.revision if part is not None else NEVER)


Send = Callable[[tuple[Compare, ...], tuple[Op, ...]], Awaitable[TxnResult]]
"""How a transaction is sent: `Mutations.txn`, or `attempt` for writes that may come twice."""


async def write(send: Send, fence: Sequence[Compare], prepared: Sequence[Prepared]) -> Outcome:
    """Write prepared groups in as few transactions as the limits allow; find what clashed.

    A batch that clashes is written in halves. What the store does not take once something has
    been written counts as clashed; before that, `Unavailable` is the caller's.
    """
    waiting = deque(_batches(prepared))
    revision = 0
    written = False
    clashed: set[int] = set()
    while waiting:
        batch = waiting.popleft()
        compares = (*fence, *(c for one in batch for c in one.compares))
        try:
            result = await send(compares, tuple(op for one in batch for op in one.ops))
        except Unavailable:
            if not written:
                raise
            clashed.update(o for rest in (batch, *waiting) for one in rest for o in one.origins)
            break
        revision = max(revision, result.revision)
        if result.succeeded:
            written = True
        elif len(batch) == 1:
            clashed.update(batch[0].origins)
        else:
            middle = len(batch) // 2
            waiting.extendleft((batch[middle:], batch[:middle]))
    return Outcome(revision, frozenset(clashed))


def merge(groups: Sequence[Group]) -> list[tuple[tuple[int, ...], tuple[Change, ...]]]:
    """Groups that share an object made one, with one change an object; in order.

    Returns (positions of the groups, changes). A creation that is deleted again vanishes.
    """
    root = list(range(len(groups)))

    def find(position: int) -> int:
        while root[position] != position:
            position = root[position]
        return position

    home: dict[str, int] = {}
    for position, group in enumerate(groups):
        for change in group.changes:
            a, b = find(home.setdefault(change.object.id, position)), find(position)
            root[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for position in range(len(groups)):
        members.setdefault(find(position), []).append(position)
    return [
        (tuple(together), fold(c for p in together for c in groups[p].changes))
        for _, together in sorted(members.items())
    ]


def fold(changes: Iterable[Change]) -> tuple[Change, ...]:
    """One change an object: the last state, guarded as the first change was."""
    first: dict[str, Change] = {}
    last: dict[str, Change] = {}
    for change in changes:
        first.setdefault(change.object.id, change)
        last[change.object.id] = change
    found: list[Change] = []
    for identity, change in last.items():
        if not isinstance(first[identity], Create):
            found.append(change)
        elif not isinstance(change, Delete):
            found.append(Create(change.object))
    return tuple(found)


def _stored_under(thing: StoredObject, key: bytes) -> Iterable[bytes]:
    """All keys of an object, its guard keys apart."""
    yield key
    if isinstance(thing, Task):
        yield keys.status_key(thing.id).encode()
    if isinstance(thing, Node):
        yield keys.describe_key(thing.id).encode()
        yield keys.session_key(thing.id).encode()
        yield keys.applied_key(thing.id).encode()


def _specs(thing: StoredObject, before: StoredObject | None) -> Iterable[Op]:
    """A service's new spec version, written beside it for its tasks to refer to."""
    if isinstance(thing, Service) and not (
        isinstance(before, Service) and before.spec_version == thing.spec_version
    ):
        yield Put(keys.spec_key(thing.id, thing.spec_version).encode(), encode(thing.spec))


def _unreferred(thing: StoredObject) -> Iterable[Compare]:
    """What is deleted must not be referred to."""
    if isinstance(thing, Network | Secret | Config):
        prefix = keys.reference_prefix(keys.TABLES[type(thing)], thing.id)
        yield CreateRevisionIs(Prefix(prefix.encode()), 0)


def _batches(prepared: Sequence[Prepared]) -> Iterable[list[Prepared]]:
    """Groups together up to the limits; etcd takes no key twice in one transaction.

    A key is shared where one object lets go of a guard key and another takes it.
    """
    batch: list[Prepared] = []
    count = size = 0
    touched: set[Selector] = set()
    for group in prepared:
        keys_of = {op.key if isinstance(op, Put) else op.select for op in group.ops}
        full = count + group.count > MAX_OPS or size + group.size > MAX_BYTES
        if batch and (full or not touched.isdisjoint(keys_of)):
            yield batch
            batch, count, size, touched = [], 0, 0, set()
        batch.append(group)
        count += group.count
        size += group.size
        touched |= keys_of
    if batch:
        yield batch
