"""Pending tasks to assigned ones. Pure.

One key, one pass over all that wait: by group of (service, spec version), each filtered once,
placed by the spread tree. Tasks of global services come with their node, which is only checked.
A task that finds no node stays PENDING and says why, with counts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain, filterfalse, islice
from zlib import crc32

import msgspec

from manager.scheduler.filters import Demand, Filter, demand_of
from manager.scheduler.nodeinfo import Load
from manager.scheduler.pipeline import ENOUGH, explain, needed, refusal
from manager.scheduler.spread import Rank, Tree, levels
from manager.view import View
from shoal.model.changes import NOTHING, Decision, Failure, Group, Update
from shoal.model.constraints import unconstrained
from shoal.model.ids import IdSource, NodeID, ServiceID
from shoal.model.objects import Node, Task, TaskStatus
from shoal.model.resources import assign
from shoal.model.states import TaskState

ASSIGNED_MESSAGE = "scheduler assigned task to node"
PENDING_MESSAGE = "pending task scheduling"
FAULT_WINDOW = timedelta(minutes=5)
FAULTS = 5

GroupKey = tuple[ServiceID, int]


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Assign every pending task that a node can be found for."""
    del key, ids
    waiting: dict[GroupKey, list[Task]] = {}
    for task in view.pending_tasks():
        if task.status.state is TaskState.PENDING:
            waiting.setdefault((task.service_id, task.spec_version), []).append(task)
    if not waiting:
        return NOTHING
    run = Pass(view, now)
    groups: list[Group] = []
    for _, tasks in sorted(waiting.items()):
        groups.extend(run.schedule_apart(tasks))
    return Decision(groups=tuple(groups), failures=tuple(run.failures))


class Pass:
    """One pass: what it has placed so far counts for what comes after."""

    def __init__(self, view: View, now: datetime) -> None:
        self._view = view
        self._now = now
        self._load = Load(view)
        self._nodes: Sequence[Node] = tuple(view.nodes())
        self.failures: list[Failure] = []

    def schedule_apart(self, tasks: Sequence[Task]) -> Iterable[Group]:
        """The same as `schedule`; where that fails, these tasks say so and others go on."""
        made: list[Group] = []
        try:
            made.extend(self.schedule(tasks))
        except Exception as error:  # noqa: BLE001 - trouble of one service stays with it
            self.failures.append(Failure(tasks[0].service_id, error))
            why = f"internal error in the scheduler: {error!r}; it is tried again"
            for task in tasks:
                made.extend(self._wait(task, why))
        return made

    def schedule(self, tasks: Sequence[Task]) -> Iterable[Group]:
        """Place the tasks of one (service, spec version)."""
        first = tasks[0]
        copies: dict[NodeID, int] = {}
        placement = first.spec.placement
        if placement is not None and placement.max_replicas:
            copies = _copies(self._view, first)
        demand = demand_of(first.service_spec, copies)
        filters = needed(demand)
        free = [task for task in tasks if task.node_id is None]
        for task in tasks:
            if task.node_id is not None:
                yield from self._check(task, demand, filters, copies)
        if free:
            yield from self._place(free, demand, filters, copies)

    def _check(
        self,
        task: Task,
        demand: Demand,
        filters: Sequence[Filter],
        copies: dict[NodeID, int],
    ) -> Iterable[Group]:
        """A task that has its node: assigned if the node can take it."""
        node = self._view.node(task.node_id) if task.node_id is not None else None
        why = "its node was removed"
        if node is not None:
            refused = refusal(demand, node, self._load, filters)
            if refused is None:
                yield self._assign(task, node, demand, copies)
                return
            why = explain([refused])
        yield from self._wait(task, why)

    def _place(
        self,
        tasks: Sequence[Task],
        demand: Demand,
        filters: Sequence[Filter],
        copies: dict[NodeID, int],
    ) -> Iterable[Group]:
        readers = levels(tasks[0].spec.placement)
        tree = Tree(readers, self._rank(tasks[0]))
        if readers:
            service = tasks[0].service_id
            tree.count((node, self._load.tasks_of(node.id, service)) for node in self._nodes)
        asked = _from(self._nodes, tasks[0])
        enough = len(self._nodes) if readers else ENOUGH
        refusals: list[str] = []

        def refused(node: Node) -> bool:
            sentence = refusal(demand, node, self._load, filters)
            if sentence is not None:
                refusals.append(sentence)
            return sentence is not None

        for task in tasks:
            node = tree.take()
            if node is None:
                tree.fill(list(islice(filterfalse(refused, asked), enough)))
                node = tree.take()
            if node is None:
                yield from self._wait(task, explain(refusals))
                continue
            yield self._assign(task, node, demand, copies)
            tree.placed(node)
            if not refused(node):
                tree.offer(node)

    def _rank(self, task: Task) -> Callable[[Node], Rank]:
        """The order of nodes for a task's group, the best first."""
        faults = self._faults(task)
        load, service = self._load, task.service_id

        def rank(node: Node) -> Rank:
            failed = faults.get(node.id, 0)
            return (
                failed if failed >= FAULTS else 0,
                load.tasks_of(node.id, service),
                load.tasks(node.id),
                node.id,
            )

        return rank

    def _faults(self, task: Task) -> dict[NodeID, int]:
        """Recent failures of this version of the service by node."""
        since = self._now - FAULT_WINDOW
        found: dict[NodeID, int] = {}
        for other in self._view.tasks_of_service(task.service_id):
            if (
                other.status.state in (TaskState.FAILED, TaskState.REJECTED)
                and other.node_id is not None
                and other.spec_version == task.spec_version
                and other.status.timestamp >= since
            ):
                found[other.node_id] = found.get(other.node_id, 0) + 1
        return found

    def _assign(
        self, task: Task, node: Node, demand: Demand, copies: dict[NodeID, int]
    ) -> Group:
        wanted = demand.resources
        generic = task.generic_resources
        if wanted.generic_resources:
            free = self._load.available(node, generic=True)
            generic = assign(wanted.generic_resources, free) or ()
        self._load.place(node.id, task, wanted, generic, demand.host_ports)
        if demand.max_replicas:
            copies[node.id] = copies.get(node.id, 0) + 1
        changed = msgspec.structs.replace(
            task,
            node_id=node.id,
            generic_resources=generic,
            updated_at=self._now,
            status=TaskStatus(
                state=TaskState.ASSIGNED, timestamp=self._now, message=ASSIGNED_MESSAGE
            ),
        )
        return Group((Update(changed),), reason=ASSIGNED_MESSAGE)

    def _wait(self, task: Task, why: str) -> Iterable[Group]:
        """The task stays and says why; nothing is written where it says so already."""
        if task.status.err == why:
            return
        status = TaskStatus(
            state=TaskState.PENDING,
            timestamp=self._now,
            message=f"{PENDING_MESSAGE}: {why}",
            err=why,
        )
        changed = msgspec.structs.replace(task, status=status, updated_at=self._now)
        yield Group((Update(changed),), reason=why)


def _from(nodes: Sequence[Node], task: Task) -> Iterator[Node]:
    """All nodes, from a place that differs by group, so that stopping early favours none."""
    start = crc32(task.id.encode()) % len(nodes) if len(nodes) > ENOUGH else 0
    return chain(islice(nodes, start, None), islice(nodes, start))


def _copies(view: View, task: Task) -> dict[NodeID, int]:
    """The service's tasks made of the same template, by node.

    Those of another one are being replaced, and must not keep their successors out; those that
    differ in constraints alone stay where they fit.
    """
    found: dict[NodeID, int] = {}
    template = unconstrained(task.spec)
    same: dict[int, bool] = {}
    for other in view.tasks_of_service(task.service_id):
        if other.node_id is None or not other.wanted or other.ended:
            continue
        if other.status.state < TaskState.ASSIGNED:
            continue
        version = other.spec_version
        if version not in same:
            same[version] = unconstrained(other.spec) == template
        if same[version]:
            found[other.node_id] = found.get(other.node_id, 0) + 1
    return found
