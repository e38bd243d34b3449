"""A small cluster without a store: the table's deciders, and agents that do as they are told.

A pass is the control loop's: rows in order over one draft, woken by the events before them.
`settle` repeats decide and obey until neither has anything to do, and moves time on to the next
wake where both wait. Every step checks what must never be (`never`).
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import takewhile

import msgspec

from manager.loops.table import TABLE
from manager.store.draft import Draft
from manager.store.tables import Tables
from manager.view import NO_TOTALS, NodeTotals
from shoal.model.changes import Create, Delete, Event, Group
from shoal.model.defaults import endpoint_of, is_host_port, protocol_of
from shoal.model.objects import Service, ServiceVersion, StoredObject, Task, TaskStatus
from shoal.model.resources import reserved
from shoal.model.states import NodeState, TaskState, is_terminal
from tests.builders import START, Ids

MOST_ROUNDS = 400


class World:
    """State, time, and what is dirty. `fails` tells which tasks end instead of running."""

    def __init__(self, fails: Callable[[Task], bool] = lambda _: False) -> None:
        self.tables = Tables()
        self.now = START
        self.ids = Ids("t")
        self.fails = fails
        self._dirty: list[dict[str, None]] = [{} for _ in TABLE]
        self._wakes: list[tuple[datetime, int, str]] = []

    # -- changes -------------------------------------------------------------------------------

    def put(self, thing: StoredObject) -> None:
        """Write an object, as another writer than the leader would."""
        if isinstance(thing, Service):
            version = f"{thing.id}/{thing.spec_version}"
            if self.tables.find(version) is None:
                self._write(
                    ServiceVersion(
                        id=version,
                        service_id=thing.id,
                        number=thing.spec_version,
                        spec=thing.spec,
                    )
                )
        self._write(thing)

    def drop(self, identity: str) -> None:
        before = self.tables.drop(identity)
        self._tell(Event(before=before))

    def _write(self, thing: StoredObject) -> None:
        before = self.tables.put(thing)
        self._tell(Event(before=before, after=thing))

    def _tell(self, event: Event) -> None:
        for position, row in enumerate(TABLE):
            self._dirty[position].update(dict.fromkeys(row.wakes(event, self.tables)))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- deciding ------------------------------------------------------------------------------

    def decide(self, written: Callable[[int], bool] = lambda _: True) -> int:
        """One pass; `written` says of each group by position whether it reaches the store.

        What follows a group that does not is lost too, and all that the pass looked at is
        looked at again, as the loop does. Returns the number of groups.
        """
        while self._wakes and self._wakes[0][0] <= self.now:
            _, position, key = heappop(self._wakes)
            self._dirty[position][key] = None
        draft = Draft(self.tables)
        looked: list[tuple[int, str]] = []
        groups = [
            group
            for position in range(len(TABLE))
            for group in self._row(position, draft, looked)
        ]
        kept = [group for at, group in takewhile(lambda e: written(e[0]), enumerate(groups))]
        for group in kept:
            self._commit(group)
        if len(kept) < len(groups):
            for position, key in looked:
                self._dirty[position][key] = None
        return len(groups)

    def _row(
        self, position: int, draft: Draft, looked: list[tuple[int, str]]
    ) -> Iterator[Group]:
        row, dirty = TABLE[position], self._dirty[position]
        while dirty:
            key = next(iter(dirty))
            del dirty[key]
            looked.append((position, key))
            decision = row.decide(draft, key, self.now, self.ids)
            if decision.wake_at is not None:
                assert decision.wake_at > self.now, f"{row.name} wakes in the past"
                heappush(self._wakes, (decision.wake_at, position, key))
            for group in decision.groups:
                yield group
                for event in draft.apply(group.changes):
                    for later in range(position + 1, len(TABLE)):
                        woken = TABLE[later].wakes(event, draft)
                        self._dirty[later].update(dict.fromkeys(woken))

    def _commit(self, group: Group) -> None:
        for change in group.changes:
            before = self.tables.find(change.object.id)
            if isinstance(before, Task) and isinstance(change.object, Task):
                check_move(before, change.object)
                check_place(self.tables, before, change.object)
            if isinstance(change, Delete):
                self.drop(change.object.id)
                continue
            assert isinstance(change, Create) is (before is None), change
            if isinstance(change.object, Service):
                self.put(change.object)
            else:
                self._write(change.object)

    # -- agents --------------------------------------------------------------------------------

    def obey(self, only: Callable[[Task], bool] = lambda _: True) -> int:
        """Agents of ready nodes bring their tasks to where they are told, one move each."""
        moved = 0
        for task in tuple(self.tables.tasks()):
            node = self.tables.node(task.node_id) if task.node_id is not None else None
            if node is None or node.state is not NodeState.READY or not only(task):
                continue
            state = self._next(task)
            if state is not None:
                self.report(task, state)
                moved += 1
        return moved

    def report(self, task: Task, state: TaskState) -> None:
        status = TaskStatus(state=state, timestamp=self.now, message=state.api_name)
        self._write(msgspec.structs.replace(task, status=status))

    def _next(self, task: Task) -> TaskState | None:
        state, desired = task.status.state, task.desired_state
        if state < TaskState.ASSIGNED or is_terminal(state):
            return None
        if desired >= TaskState.SHUTDOWN:
            return TaskState.SHUTDOWN
        if state < TaskState.READY:
            return TaskState.READY
        if desired is TaskState.READY:
            return None
        if self.fails(task):
            return TaskState.FAILED
        if state < TaskState.RUNNING:
            return TaskState.RUNNING
        return TaskState.COMPLETE if desired is TaskState.COMPLETE else None

    # -- the end -------------------------------------------------------------------------------

    def settle(self, until: timedelta = timedelta(hours=1)) -> None:
        """Decide and obey until a fixed point: nothing to write, to do, nobody to wake."""
        end = self.now + until
        for _ in range(MOST_ROUNDS):
            busy = self.decide()
            never(self.tables)
            busy += self.obey()
            never(self.tables)
            if busy or any(self._dirty):
                continue
            if not self._wakes or self._wakes[0][0] > end:
                self.check_quiet()
                return
            self.now = max(self.now, self._wakes[0][0])
        raise AssertionError(f"no fixed point after {MOST_ROUNDS} rounds: {self.story()}")

    def check_quiet(self) -> None:
        """At a fixed point no decider has anything to say about any key, woken or not."""
        for row in TABLE:
            for key in row.all_keys(self.tables):
                decision = row.decide(self.tables, key, self.now, self.ids)
                assert not decision.groups, f"{row.name} was not woken for {key}: {decision}"

    def story(self) -> Sequence[str]:
        return [
            f"{t.id} slot {t.slot} v{t.spec_version} on {t.node_id}: {t.status.state.name}"
            f" -> {t.desired_state.name} {t.status.message!r} {t.reason!r}"
            for t in self.tables.tasks()
        ]

    def running(self, service: str, version: int | None = None) -> list[Task]:
        return [
            task
            for task in self.tables.tasks()
            if task.service_id == service
            and task.wanted
            and task.status.state is TaskState.RUNNING
            and (version is None or task.spec_version == version)
        ]


def check_move(before: Task, after: Task) -> None:
    """A task is never lowered, never moved, never made anything else."""
    assert after.status.state >= before.status.state, (before, after)
    if before.status.state > TaskState.READY or before.desired_state > TaskState.READY:
        assert after.desired_state >= before.desired_state, (before, after)
    assert before.node_id is None or after.node_id == before.node_id, (before, after)
    assert (after.slot, after.service_id) == (before.slot, before.service_id)
    assert after.spec_version == before.spec_version


def check_place(tables: Tables, before: Task, after: Task) -> None:
    """A node is given a task only if, by plain counting, the task may run there."""
    if before.status.state >= TaskState.ASSIGNED or after.status.state < TaskState.ASSIGNED:
        return
    node = tables.node(after.node_id) if after.node_id is not None else None
    assert node is not None
    assert (node.state, node.spec.availability) == (NodeState.READY, "active")
    placement = after.spec.placement
    for constraint in placement.constraints if placement is not None else ():
        label, _, value = constraint.partition("==")
        assert node.spec.labels.get(label.removeprefix("node.labels.")) == value
    there = [
        task
        for task in tables.tasks_of_node(node.id)
        if task.wanted and not task.ended and task.status.state >= TaskState.ASSIGNED
    ]
    taken = sum(reserved(task.spec).memory_bytes for task in (*there, after))
    assert node.description is not None
    assert taken <= node.description.resources.memory_bytes
    if placement is not None and placement.max_replicas:
        same = [task for task in there if task.spec == after.spec]
        assert len(same) < placement.max_replicas


def never(tables: Tables) -> None:
    """What no state of the cluster may show, whatever happened before it."""
    held: dict[tuple[str, str, int], Task] = {}
    totals: dict[str, NodeTotals] = {}
    for task in tables.tasks():
        if task.node_id is None:
            continue
        if task.ended or task.status.state < TaskState.ASSIGNED:
            continue
        recount(totals.setdefault(task.node_id, NodeTotals()), task)
        if tables.node(task.node_id) is None:
            continue
        for port in endpoint_of(task.service_spec).ports:
            if is_host_port(port) and port.published_port:
                at = (task.node_id, protocol_of(port), port.published_port)
                other = held.setdefault(at, task)
                assert other is task, f"{at} is held by {other.id} and {task.id}"
    for node in tables.nodes():
        kept = tables.totals(node.id)
        assert kept == totals.get(node.id, NO_TOTALS), f"totals of {node.id}"


def recount(totals: NodeTotals, task: Task) -> None:
    """What a task on a node takes, worked out from its words alone."""
    for port in endpoint_of(task.service_spec).ports:
        if is_host_port(port) and port.published_port:
            at = (protocol_of(port), port.published_port)
            totals.host_ports[at] = totals.host_ports.get(at, 0) + 1
    for one in task.generic_resources:
        if one.discrete_resource_spec is not None:
            kind = one.discrete_resource_spec.kind
            count = totals.discrete.get(kind, 0) + one.discrete_resource_spec.value
            totals.discrete[kind] = count
        if one.named_resource_spec is not None:
            name = (one.named_resource_spec.kind, one.named_resource_spec.value)
            totals.named[name] = totals.named.get(name, 0) + 1
    if not task.wanted:
        return
    totals.tasks += 1
    totals.by_service[task.service_id] = totals.by_service.get(task.service_id, 0) + 1
    totals.nano_cpus += reserved(task.spec).nano_cpus
    totals.memory_bytes += reserved(task.spec).memory_bytes
