"""Pending tasks to assigned ones. Pure.

One key, one pass over all that wait: by group of (service, spec version), each filtered once,
placed by the spread tree. Tasks of global services come with their node, which is only checked.
A task that finds no node stays PENDING and says why, with counts.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from zlib import crc32

import msgspec

from manager.scheduler.filters import Demand, Filter, demand_of
from manager.scheduler.nodeinfo import Load
from manager.scheduler.pipeline import ENOUGH, explain, needed, refusal
from manager.scheduler.spread import Rank, Tree, levels
from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
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
        groups.extend(run.schedule(tasks))
    return Decision(groups=tuple(groups)) if groups else NOTHING


class Pass:
    """One pass: what it has placed so far counts for what comes after."""

    def __init__(self, view: View, now: datetime) -> None:
        self._view = view
        self._now = now
        self._load = Load(view)
        self._nodes: Sequence[Node] = tuple(view.nodes())

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
        tree, refusals = self._feasible(tasks[0], demand, filters)
        for task in tasks:
            node = tree.take()
            if node is None:
                yield from self._wait(task, explain(refusals))
                continue
            yield self._assign(task, node, demand, copies)
            tree.placed(node)
            refused = refusal(demand, node, self._load, filters)
            if refused is None:
                tree.offer(node)
            else:
                refusals.append(refused)

    def _feasible(
        self, task: Task, demand: Demand, filters: Sequence[Filter]
    ) -> tuple[Tree, list[str]]:
        """The nodes that may take a task of this group, and why the others may not."""
        readers = levels(task.spec.placement)
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

        tree = Tree(readers, rank)
        refusals: list[str] = []
        feasible: list[Node] = []
        enough = len(self._nodes) if readers else ENOUGH
        for node in _from(self._nodes, task):
            refused = refusal(demand, node, load, filters)
            if refused is not None:
                refusals.append(refused)
                continue
            feasible.append(node)
            if len(feasible) >= enough:
                break
        if readers:
            tree.count((node, load.tasks_of(node.id, service)) for node in self._nodes)
        tree.fill(feasible)
        return tree, refusals

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


def _from(nodes: Sequence[Node], task: Task) -> Iterable[Node]:
    """All nodes, from a place that differs by group, so that stopping early favours none."""
    if len(nodes) <= ENOUGH:
        return nodes
    start = crc32(task.id.encode()) % len(nodes)
    return (*nodes[start:], *nodes[:start])


def _copies(view: View, task: Task) -> dict[NodeID, int]:
    """The service's tasks made of the same template, by node."""
    found: dict[NodeID, int] = {}
    template = task.service_spec.task_template
    for other in view.tasks_of_service(task.service_id):
        if (
            other.node_id is not None
            and other.status.state >= TaskState.ASSIGNED
            and other.wanted
            and not other.ended
            and other.service_spec.task_template == template
        ):
            found[other.node_id] = found.get(other.node_id, 0) + 1
    return found
