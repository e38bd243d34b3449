"""A multi-version map with etcd's semantics, in memory: what a revision is, what a txn does.

Synchronous, without clock and chance, so that `simulated` can put both around it. Leases are
known here only as numbers that keys are attached to. Held to etcd's behaviour by
`tests/contract/test_kv.py`.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import pairwise

from msgspec.structs import replace

from manager.store import kv
from shoal.model import errors


class Mvcc:
    """Keys with their history since the last compaction, and one revision for all of them."""

    def __init__(self, *, max_txn_ops: int = kv.MAX_TXN_OPS) -> None:
        self.revision = 1
        self.compacted = 0
        self._max_txn_ops = max_txn_ops
        self._keys: list[bytes] = []  # every key that has history, sorted
        self._history: dict[bytes, list[kv.Event]] = {}  # of a key, ascending by mod revision
        self._log: dict[int, tuple[kv.Event, ...]] = {}  # what each revision did
        self._writing: list[kv.Event] = []  # of the transaction under way
        self._leases: dict[int, dict[bytes, None]] = {}

    # -- reading

    def range(
        self,
        select: kv.Selector,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> kv.RangeResult:
        """Read at a revision, 0 for the present."""
        if select == b"":
            raise errors.InvalidArgument("the store says: key is not provided")
        if revision > self.revision:
            raise errors.InvalidArgument(
                f"the store says: revision {revision} is in the future"
            )
        if 0 < revision < self.compacted:
            raise kv.Compacted(revision)
        found = list(self._at(kv.as_span(select), revision or self._now()))
        count = len(found)
        if count_only:
            return kv.RangeResult(self._now(), (), count)
        if limit:
            found = found[:limit]
        if keys_only:
            found = [replace(entry, value=b"") for entry in found]
        return kv.RangeResult(self._now(), tuple(found), count, len(found) < count)

    def events_at(self, revision: int) -> tuple[kv.Event, ...]:
        """What a revision did, in the order of its operations, each with the key before it."""
        return self._log.get(revision, ())

    def _now(self) -> int:
        """The present revision; inside a transaction that has written, the one to be."""
        return self.revision + 1 if self._writing else self.revision

    def _at(self, span: kv.Span, revision: int) -> Iterator[kv.KeyValue]:
        index = bisect_left(self._keys, span.start)
        while index < len(self._keys) and span.holds(self._keys[index]):
            entry = self._key_at(self._keys[index], revision)
            if entry is not None:
                yield entry
            index += 1

    def _key_at(self, key: bytes, revision: int) -> kv.KeyValue | None:
        for event in reversed(self._history.get(key, ())):
            if event.kv.mod_revision <= revision:
                return None if event.deleted else event.kv
        return None

    # -- writing

    def txn(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...] = (),
    ) -> kv.TxnResult:
        """Apply a transaction, or raise having changed nothing."""
        self._check(compares, success, failure)
        succeeded = all(map(self._holds, compares))
        branch = success if succeeded else failure
        for op in branch:
            if isinstance(op, kv.Put) and op.lease and op.lease not in self._leases:
                raise kv.LeaseNotFound(op.lease)
        responses = tuple(map(self._do, branch))
        self._commit()
        return kv.TxnResult(succeeded, self.revision, responses)

    def _commit(self) -> None:
        if self._writing:
            self.revision += 1
            self._log[self.revision] = tuple(self._writing)
            self._writing = []

    def _holds(self, compare: kv.Compare) -> bool:
        match compare:
            case kv.ModRevisionIs(key, revision):
                entry = self._key_at(key, self.revision)
                return (entry.mod_revision if entry else 0) == revision
            case kv.ValueIs(key, value):
                entry = self._key_at(key, self.revision)
                return entry is not None and entry.value == value
            case kv.CreateRevisionIs(select, revision):
                found = list(self._at(kv.as_span(select), self.revision))
                if not found:
                    return revision == 0
                return all(entry.create_revision == revision for entry in found)

    def _do(self, op: kv.Op) -> kv.Response:
        match op:
            case kv.Put(key, value, lease):
                self._put(key, value, lease)
                return kv.Written()
            case kv.DeleteRange(select):
                return kv.Deleted(self._delete(kv.as_span(select)))
            case kv.Get(select, keys_only, count_only):
                return self.range(select, keys_only=keys_only, count_only=count_only)

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        revision = self.revision + 1
        prev = self._key_at(key, revision)
        entry = kv.KeyValue(
            key,
            value,
            prev.create_revision if prev else revision,
            revision,
            prev.version + 1 if prev else 1,
            lease,
        )
        if prev and prev.lease:
            self._leases[prev.lease].pop(key, None)
        if lease:
            self._leases[lease][key] = None
        self._record(kv.Event(entry, prev=prev))

    def _delete(self, span: kv.Span) -> int:
        revision = self.revision + 1
        found = list(self._at(span, revision))
        for prev in found:
            if prev.lease:
                self._leases[prev.lease].pop(prev.key, None)
            gone = kv.KeyValue(prev.key, b"", 0, revision, 0)
            self._record(kv.Event(gone, deleted=True, prev=prev))
        return len(found)

    def _record(self, event: kv.Event) -> None:
        key = event.kv.key
        if key not in self._history:
            insort(self._keys, key)
            self._history[key] = []
        self._history[key].append(event)
        self._writing.append(event)

    # -- what etcd refuses

    def _check(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...],
    ) -> None:
        if max(len(compares), len(success), len(failure)) > self._max_txn_ops:
            raise errors.InvalidArgument(
                "the store says: too many operations in txn request "
                f"(the limit is {self._max_txn_ops})"
            )
        if any(_selected(part) == b"" for part in (*compares, *success, *failure)):
            raise errors.InvalidArgument("the store says: key is not provided")
        if _size(success) + _size(failure) > kv.MAX_REQUEST_BYTES:
            raise errors.InvalidArgument("the store says: request is too large")
        _check_once(success)
        _check_once(failure)

    # -- leases and compaction

    def lease_attach(self, lease: int) -> None:
        """Let a lease be known, without keys."""
        self._leases[lease] = {}

    def lease_keys(self, lease: int) -> tuple[bytes, ...]:
        """The keys that go with a lease."""
        return tuple(sorted(self._leases[lease]))

    def lease_end(self, lease: int) -> None:
        """Delete a lease's keys in one revision, ascending, and forget it."""
        for key in self.lease_keys(lease):
            self._delete(kv.as_span(key))
        self._commit()
        del self._leases[lease]

    def compact(self, revision: int) -> None:
        """Forget what no read at or after `revision` can see, and the events before it."""
        if revision <= self.compacted:
            raise kv.Compacted(revision)
        if revision > self.revision:
            raise errors.InvalidArgument(
                f"the store says: revision {revision} is in the future"
            )
        self.compacted = revision
        self._log = {at: done for at, done in self._log.items() if at >= revision}
        for key in tuple(self._keys):
            self._history[key] = _visible_from(self._history[key], revision)
        self._history = {key: events for key, events in self._history.items() if events}
        self._keys = sorted(self._history)

    @property
    def size(self) -> int:
        """Bytes of all keys and values with history."""
        return sum(
            len(event.kv.key) + len(event.kv.value)
            for events in self._history.values()
            for event in events
        )


def _visible_from(events: list[kv.Event], revision: int) -> list[kv.Event]:
    past = [event for event in events if event.kv.mod_revision <= revision]
    kept = [event for event in past[-1:] if not event.deleted]
    return kept + events[len(past) :]


def _selected(part: kv.Compare | kv.Op) -> kv.Selector:
    match part:
        case kv.ModRevisionIs(key) | kv.ValueIs(key) | kv.Put(key):
            return key
        case kv.CreateRevisionIs(select) | kv.DeleteRange(select) | kv.Get(select):
            return select


def _size(branch: tuple[kv.Op, ...]) -> int:
    return sum(len(op.key) + len(op.value) for op in branch if isinstance(op, kv.Put))


def _check_once(branch: tuple[kv.Op, ...]) -> None:
    """No key twice among the puts of a branch, nor put and deleted."""
    puts = sorted(op.key for op in branch if isinstance(op, kv.Put))
    spans = [kv.as_span(op.select) for op in branch if isinstance(op, kv.DeleteRange)]
    twice = any(one == other for one, other in pairwise(puts))
    for span in spans:
        index = bisect_left(puts, span.start)
        twice = twice or (index < len(puts) and span.holds(puts[index]))
    if twice:
        raise errors.InvalidArgument("the store says: duplicate key given in txn request")
