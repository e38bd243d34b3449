"""Tasks by slot, and what a slot's tasks say about it. Pure.

A slot is a number of a replicated service or a node of a global one. Called by the deciders of
the service modes, the updater and the reaper; none of them keeps anything between calls.
"""

from collections.abc import Iterable, Sequence

import msgspec

from manager.view import View
from shoal.model.constraints import first_unmet, parse_all, unconstrained
from shoal.model.defaults import endpoint_of, restart_rule
from shoal.model.errors import InvalidArgument
from shoal.model.objects import Node, Service, Task
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import Availability, NodeState, RestartCondition, TaskState

Cell = tuple[int, str]
"""A slot's number and "", or 0 and the id of the node that stands for the slot."""

_BY_ITSELF = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED})


def cell_of(task: Task) -> Cell:
    """Which slot a task belongs to."""
    return (task.slot, "") if task.slot else (0, task.node_id or "")


def by_slot(tasks: Iterable[Task]) -> dict[Cell, list[Task]]:
    """Tasks of each slot, oldest first; slots in order."""
    cells: dict[Cell, list[Task]] = {}
    for task in tasks:
        cells.setdefault(cell_of(task), []).append(task)
    for found in cells.values():
        if len(found) > 1:
            found.sort(key=age)
    return dict(sorted(cells.items()))


def age(task: Task) -> tuple[object, str]:
    """Sorts oldest first."""
    return (task.created_at, task.id)


def ended_by_itself(task: Task) -> bool:
    """Whether it completed, failed or was rejected, rather than being stopped."""
    return task.status.state in _BY_ITSELF


def stopping(task: Task) -> bool:
    """Whether it is to stop and may still run."""
    return not task.wanted and not task.ended and task.status.state >= TaskState.ASSIGNED


def why_leaving(view: View, task: Task) -> str | None:
    """Why a task's node cannot keep it, in plain words; None where it can."""
    if task.node_id is None:
        return None
    node = view.node(task.node_id)
    if node is None:
        return f"node {task.node_id} was removed"
    if node.state is NodeState.DOWN:
        return f"node {name_of(node)} is down"
    if node.spec.availability == Availability.DRAIN:
        return f"node {name_of(node)} is drained"
    if _never_taken(node, task):
        return f"node {name_of(node)} lost its session before it took the task"
    return None


def _never_taken(node: Node, task: Task) -> bool:
    """Whether the node is not heard of, and has not said yet that it has the task.

    Nothing is lost by moving it at once, and what is created right after a host is lost does
    not wait for the node to count as down.
    """
    return node.lost_since is not None and task.status.state <= TaskState.ASSIGNED


def unreachable(view: View, task: Task) -> bool:
    """Whether nobody can be asked to stop it now: its node is down, gone or never took it."""
    node = view.node(task.node_id) if task.node_id is not None else None
    return node is None or node.state is NodeState.DOWN or _never_taken(node, task)


def name_of(node: Node) -> str:
    """What people call a node."""
    hostname = node.description.hostname if node.description is not None else ""
    return hostname or node.id


def may_restart(task: Task, history: Sequence[Task]) -> bool:
    """Whether the end of a task is followed by a new one.

    Attempts are the ends of the slot's tasks of the same spec version, within the window before
    this one; the reaper keeps as many as are counted. What was stopped was no attempt.
    """
    rule = restart_rule(task.service_spec)
    if rule.condition is RestartCondition.NONE:
        return False
    if (
        rule.condition is RestartCondition.ON_FAILURE
        and task.status.state is TaskState.COMPLETE
    ):
        return False
    if not rule.max_attempts:
        return True
    since = task.status.timestamp - rule.window if rule.window else None
    earlier = [
        other
        for other in history
        if other.id != task.id
        and other.spec_version == task.spec_version
        and other.job_iteration == task.job_iteration
        and ended_by_itself(other)
        and age(other) < age(task)
        and (since is None or other.status.timestamp >= since)
    ]
    return len(earlier) < rule.max_attempts


def exhausted(tasks: Sequence[Task]) -> bool:
    """Whether the slot's newest task ended by itself and is not followed by another."""
    kept = [task for task in tasks if task.desired_state < TaskState.REMOVE]
    if not kept:
        return False
    newest = kept[-1]
    return ended_by_itself(newest) and not may_restart(newest, kept)


class Dirt(msgspec.Struct):
    """Tells which tasks were made from another spec than the service has now.

    Made for one decision; a spec version is compared once.
    """

    view: View
    service: Service
    seen: dict[int, tuple[bool, bool]] = msgspec.field(default_factory=dict)

    def of(self, task: Task) -> bool:
        """Whether the task must be replaced for the service's spec to hold."""
        if task.spec_version == self.service.spec_version:
            return False
        known = self.seen.get(task.spec_version)
        if known is None:
            known = self.seen[task.spec_version] = compare(task.service_spec, self.service.spec)
        same, but_for_constraints = known
        if same:
            return False
        return not (but_for_constraints and self._still_fits(task))

    def _still_fits(self, task: Task) -> bool:
        if task.node_id is None:
            return False
        node = self.view.node(task.node_id)
        placement = self.service.spec.task_template.placement
        if node is None or placement is None:
            return node is not None
        try:
            return first_unmet(parse_all(placement.constraints), node) is None
        except InvalidArgument:
            return False


def compare(old: ServiceSpec, new: ServiceSpec) -> tuple[bool, bool]:
    """(tasks of both are the same, they are the same but for placement constraints)."""
    if endpoint_of(old) != endpoint_of(new):
        return False, False
    before, after = old.task_template, new.task_template
    if before == after:
        return True, True
    return False, unconstrained(before) == unconstrained(after)
