"""What the store holds at this very moment, what it held lately, and what happened, in lines.

Fed with each revision before anybody's watch shows it. The checks (`checks`, `updates`) read
it; a decider may have seen something older, so what it was allowed is judged by all that was
true within the last seconds (`STALE`).
"""

import asyncio
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from manager.orchestrator.slots import cell_of
from manager.store import kv
from manager.store.election import Candidate
from manager.store.keys import LEADER_KEY, ROOT
from manager.store.memory import Entry, Memory
from shoal.model.changes import Event
from shoal.model.ids import NodeID, ServiceID
from shoal.model.objects import Node, Service, Task
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import Availability, NodeState, TaskState, UpdateState

MOST_REVISIONS = 400
"""In one second; more is a cluster that chases its own tail."""

STALE = 8.0
"""Seconds that a manager may lag behind the store in any weather of the simulation."""

_BACK = (
    UpdateState.ROLLBACK_STARTED,
    UpdateState.ROLLBACK_PAUSED,
    UpdateState.ROLLBACK_COMPLETED,
)


class Revision(Struct, frozen=True):
    """One revision of the store: who wrote it ("" a lease's end) and what it changed."""

    writer: str
    number: int
    at: float
    events: tuple[Event, ...]

    def stops(self) -> Iterator[tuple[Task, Task]]:
        """Tasks that ran and are no longer wanted, before and after."""
        for event in self.events:
            before, after = event.before, event.after
            if not isinstance(before, Task) or not isinstance(after, Task):
                continue
            ran = before.status.state is TaskState.RUNNING
            if ran and before.wanted and not after.wanted:
                yield before, after


class Held(Struct, frozen=True):
    """A service's spec as it was held, and whether it was being rolled back."""

    spec: ServiceSpec
    back: bool


Check = Callable[[Revision], None]


class Truth:
    """The store's present, as objects."""

    def __init__(self, trace: list[str]) -> None:
        self.view = Memory()
        self.leader = ""
        self.violations: list[str] = []
        self.violated = asyncio.Event()
        self.checks: list[Check] = []
        self.stop: Callable[[], None] = lambda: None
        self._second = -1
        self._revisions = 0
        self._trace = trace
        self._specs: dict[ServiceID, list[tuple[float, Held]]] = {}
        self._unfit_until: dict[NodeID, float] = {}
        self._down_until: dict[NodeID, float] = {}

    # -- what happens

    def say(self, line: str) -> None:
        """Write a line into the trace."""
        self._trace.append(f"{self.now():9.4f}  {line}")

    def object_to(self, sentence: str) -> None:
        """An invariant does not hold."""
        self.violations.append(sentence)
        self.violated.set()
        self.say(f"VIOLATED: {sentence}")

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def witness(self, writer: str, number: int, happened: tuple[kv.Event, ...]) -> None:
        self._count()
        entries = []
        for event in happened:
            if event.kv.key == LEADER_KEY:
                self._lead(event)
            elif event.kv.key.startswith(ROOT.encode()):
                value = None if event.deleted else event.kv.value
                entries.append(Entry(event.kv.key.decode(), value, event.kv.mod_revision))
        events = self.view.apply(entries, number)
        for one in events:
            self._remember(one)
            self._describe(one, writer, number)
        revision = Revision(writer, number, self.now(), events)
        for check in self.checks:
            check(revision)

    def _count(self) -> None:
        second = int(self.now())
        if second != self._second:
            self._second, self._revisions = second, 0
        self._revisions += 1
        if self._revisions == MOST_REVISIONS:
            self.object_to(f"{MOST_REVISIONS} revisions within a second: nothing comes of them")
            self.stop()

    def _lead(self, event: kv.Event) -> None:
        self.leader = (
            "" if event.deleted else msgspec.json.decode(event.kv.value, type=Candidate).id
        )
        self.say(f"leader: {self.leader or 'nobody'}")

    # -- what was true lately

    def _remember(self, event: Event) -> None:
        match event.object:
            case Service():
                before = event.before
                if isinstance(before, Service) and event.after is not None:
                    held = self._specs.setdefault(before.id, [])
                    held.append((self.now(), _held(before)))
                    while held and held[0][0] < self.now() - STALE:
                        held.pop(0)
            case Node():
                known = [one for one in (event.before, event.after) if isinstance(one, Node)]
                if event.after is None or not all(fit(one) for one in known):
                    self._unfit_until[event.object.id] = self.now() + STALE
                if event.after is None or any(_lost(one) for one in known):
                    self._down_until[event.object.id] = self.now() + STALE
            case _:
                return

    def lately(self, service: Service) -> list[Held]:
        """How the service is and was held within the last seconds."""
        since = self.now() - STALE
        earlier = [one for until, one in self._specs.get(service.id, ()) if until >= since]
        return [_held(service), *earlier]

    def unfit_lately(self, node: NodeID | None) -> bool:
        """Whether a node is, or was within the last seconds, not ready, drained or gone."""
        if node is None or not fit(self.view.node(node)):
            return True
        return self.now() < self._unfit_until.get(node, -1.0)

    def down_lately(self, node: NodeID) -> bool:
        """Whether a node is, or was within the last seconds, down, gone or not heard of."""
        found = self.view.node(node)
        if found is None or _lost(found):
            return True
        return self.now() < self._down_until.get(node, -1.0)

    # -- in words

    def _describe(self, event: Event, writer: str, number: int) -> None:
        by = f"r{number} {writer or 'lease'}"
        match event.before, event.after:
            case (Task() as before, Task() as after):
                changes = _differences(before, after)
                if changes:
                    self.say(f"{by}: {self.name(after)}: {changes}")
            case (None, Task() as made):
                state, where = made.status.state.name, made.node_id or made.status.err
                self.say(
                    f"{by}: {self.name(made)} created, v{made.spec_version} ({made.reason}):"
                    f" desired {made.desired_state.name}, {state} {where}"
                )
            case (Task() as gone, None):
                self.say(f"{by}: {self.name(gone)} deleted in {gone.status.state.name}")
            case (Node() as old, Node() as new):
                said = _said_of(new)
                if said != _said_of(old):
                    self.say(f"{by}: {new.id}: {said}")
            case (_, Service() as service):
                status = service.update_status
                said = f" {status.state.value}: {status.message}" if status is not None else ""
                self.say(f"{by}: service {service.spec.name} v{service.spec_version}{said}")
            case _:
                said = "is" if event.after is not None else "is gone"
                self.say(f"{by}: {type(event.object).__name__} {event.object.id} {said}")

    def name(self, task: Task) -> str:
        cell = cell_of(task)
        return f"{task.service_spec.name}.{cell[0] or cell[1]}.{task.id[:5]}"


def fit(node: object) -> bool:
    """Whether a node takes and keeps tasks."""
    return (
        isinstance(node, Node)
        and node.state is NodeState.READY
        and node.lost_since is None
        and node.spec.availability != Availability.DRAIN
    )


def _lost(node: Node) -> bool:
    return node.state is NodeState.DOWN or node.lost_since is not None


def _held(service: Service) -> Held:
    status = service.update_status
    return Held(service.spec, status is not None and status.state in _BACK)


def _differences(before: Task, after: Task) -> str:
    said = []
    if before.desired_state is not after.desired_state:
        said.append(f"desired {after.desired_state.name} ({after.reason})")
    if before.node_id != after.node_id:
        said.append(f"on {after.node_id}")
    if before.status != after.status:
        status = after.status
        said.append(" ".join(filter(None, (status.state.name, status.err or status.message))))
    return "; ".join(said)


def _said_of(node: Node) -> str:
    session = f"session at {node.session.manager}" if node.session is not None else "no session"
    return f"{node.state.value}, {node.spec.availability}, {session}"
