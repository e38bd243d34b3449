"""The fed copy of the store: every manager keeps the whole state in memory and reads from it.

`feed` fills it, one store revision at a time, so that a reader never sees half of a
transaction. It joins the parts that different writers hold, keeps the indexes (`tables`), tells
listeners what changed, and lets callers wait for a revision. It decides nothing and writes
nothing.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from manager.store import keys
from manager.store.codec import TaskRecord, decode, join_task
from manager.store.tables import Tables
from shoal.model.changes import Event
from shoal.model.ids import NodeID, ServiceID
from shoal.model.objects import (
    Applied,
    Cluster,
    Config,
    Network,
    Node,
    NodeReport,
    NodeSession,
    Object,
    Secret,
    Service,
    ServiceVersion,
    StoredObject,
    TaskStatus,
)
from shoal.model.spec.service import ServiceSpec

_PLAIN: dict[str, type[Object]] = {
    "service": Service,
    "network": Network,
    "secret": Secret,
    "config": Config,
    "node": Node,
    "cluster": Cluster,
}
_PARTS: dict[str, type] = {
    "task": TaskRecord,
    "status": TaskStatus,
    "describe": NodeReport,
    "session": NodeSession,
    "applied": Applied,
    "spec": ServiceSpec,
    **_PLAIN,
}
# Within one revision specs come first: a task is joined with the spec it was written with.
_ORDER = {"spec": 0, "node": 1, "task": 1}


class Entry(msgspec.Struct, frozen=True):
    """One key as the store has it; `value` None where it was deleted."""

    key: str
    value: bytes | None
    mod_revision: int


class Part(msgspec.Struct, frozen=True):
    """A decoded record and the revision that wrote it."""

    record: Any
    revision: int


Listener = Callable[[Sequence[Event]], None]


class Memory(Tables):
    """Implements `manager.view.View`; fed by `manager.store.feed`, read by everyone."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, Part] = {}
        self._listeners: list[Listener] = []
        self._epoch = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    # -- for readers ---------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the events of each revision, at once; returns how to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @contextmanager
    def woken_by(self, *kinds: type[Object]) -> Iterator[asyncio.Event]:
        """An event that is set by each change of an object of these kinds; clear it first."""
        woken = asyncio.Event()

        def on_events(events: Sequence[Event]) -> None:
            if any(isinstance(event.object, kinds) for event in events):
                woken.set()

        stop_listening = self.listen(on_events)
        try:
            yield woken
        finally:
            stop_listening()

    @property
    def epoch(self) -> int:
        """The latest leader's epoch that this memory knows of; 0 before the first."""
        return self._epoch

    async def reached(self, revision: int) -> None:
        """Return once the memory holds that revision."""
        if self._revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, waiter))
        await waiter

    def part(self, key: str) -> Part | None:
        """The decoded record under one key, with its own revision."""
        return self._parts.get(key)

    def keys_below(self, prefix: str) -> list[str]:
        """Known keys that begin with a prefix, sorted; for checks, not for hot paths."""
        return sorted(key for key in self._parts if key.startswith(prefix))

    # -- for the feed --------------------------------------------------------------------------

    def apply(self, entries: Iterable[Entry], revision: int) -> tuple[Event, ...]:
        """Take in all that one or several revisions changed; listeners see whole revisions."""
        events: list[Event] = []
        for entry in sorted(entries, key=_precedence):
            event = self._apply_one(entry)
            if event is not None:
                events.append(event)
        self._advance(revision)
        self._tell(events)
        return tuple(events)

    def reset(self, entries: Iterable[Entry], revision: int) -> tuple[Event, ...]:
        """Become exactly what a full list says; events tell the difference to before."""
        listed = list(entries)
        present = {entry.key for entry in listed}
        gone = [Entry(key, None, revision) for key in self._parts if key not in present]
        changed = [
            entry
            for entry in listed
            if (part := self._parts.get(entry.key)) is None
            or part.revision != entry.mod_revision
        ]
        return self.apply([*gone, *changed], revision)

    def learn_epoch(self, epoch: int) -> None:
        """A leader's key was created at that revision; call before its revision is applied."""
        self._epoch = max(self._epoch, epoch)

    def advance(self, revision: int) -> None:
        """Nothing changed up to this revision (a progress notification)."""
        self._advance(revision)

    def _advance(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        due = [waiter for wanted, waiter in self._waiting if wanted <= self._revision]
        if due:
            self._waiting = [pair for pair in self._waiting if pair[0] > self._revision]
            for waiter in due:
                if not waiter.done():
                    waiter.set_result(None)

    def _tell(self, events: Sequence[Event]) -> None:
        if events:
            for listener in tuple(self._listeners):
                listener(events)

    def _apply_one(self, entry: Entry) -> Event | None:
        table, identity = _split(entry.key)
        kind = _PARTS.get(table)
        if kind is None:
            return None
        if entry.value is None:
            self._parts.pop(entry.key, None)
        else:
            self._parts[entry.key] = Part(decode(entry.value, kind), entry.mod_revision)
        match table:
            case "spec":
                return self._rejoin(identity, self._version(identity))
            case "task" | "status":
                return self._rejoin(identity, self._task(identity))
            case "node" | "describe" | "session" | "applied":
                return self._rejoin(identity, self._node(identity))
            case _:
                thing = self._plain(entry.key)
                identity = thing.id if thing is not None else identity or self._cluster_id()
                return self._rejoin(identity, thing)

    def _plain(self, key: str) -> Any:
        part = self._parts.get(key)
        if part is None:
            return None
        return msgspec.structs.replace(part.record, version=part.revision, guard=part.revision)

    def _cluster_id(self) -> str:
        cluster = self.cluster()
        return cluster.id if cluster is not None else ""

    def _rejoin(self, identity: str, thing: StoredObject | None) -> Event | None:
        before = self.drop(identity) if thing is None else self.put(thing)
        if before is None and thing is None:
            return None
        return Event(before=before, after=thing)

    def _version(self, identity: str) -> StoredObject | None:
        part = self._parts.get(f"{keys.ROOT}spec/{identity}")
        if part is None:
            return None
        service, _, number = identity.rpartition("/")
        return ServiceVersion(
            id=identity,
            service_id=ServiceID(service),
            number=int(number),
            spec=part.record,
            version=part.revision,
            guard=part.revision,
        )

    def _task(self, identity: str) -> StoredObject | None:
        main = self._parts.get(keys.ROOT + "task/" + identity)
        if main is None:
            return None
        record: TaskRecord = main.record
        spec = self._parts.get(keys.spec_key(record.service_id, record.spec_version))
        report = self._parts.get(keys.status_key(identity))
        return join_task(
            record,
            spec.record if spec is not None else ServiceSpec(),
            report.record if report is not None else None,
            version=max(main.revision, report.revision if report is not None else 0),
            guard=main.revision,
        )

    def _node(self, identity: str) -> StoredObject | None:
        main = self._parts.get(keys.ROOT + "node/" + identity)
        if main is None:
            return None
        report = self._parts.get(keys.describe_key(identity))
        session = self._parts.get(keys.session_key(identity))
        before = self.node(NodeID(identity))
        same = before is not None and before.spec == main.record.spec
        node: Node = msgspec.structs.replace(
            main.record,
            spec_since=before.spec_since if before is not None and same else main.revision,
            version=max(main.revision, report.revision if report is not None else 0),
            guard=main.revision,
        )
        if report is not None:
            node = msgspec.structs.replace(
                node,
                description=report.record.description,
                addr=report.record.addr,
                data_path_addr=report.record.data_path_addr,
                tunnel=report.record.tunnel,
                taken_ports=report.record.taken_ports,
                trust=report.record.trust,
                left=report.record.left,
            )
        if session is not None:
            node = msgspec.structs.replace(node, session=session.record)
        applied = self._parts.get(keys.applied_key(identity))
        if applied is not None:
            node = msgspec.structs.replace(node, applied=applied.record)
        return node


def _split(key: str) -> tuple[str, str]:
    table, _, identity = key.removeprefix(keys.ROOT).partition("/")
    return table, identity


def _precedence(entry: Entry) -> tuple[int, int]:
    table, _ = _split(entry.key)
    return (entry.mod_revision, _ORDER.get(table, 2))
