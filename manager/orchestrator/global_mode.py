"""Global services: one task on each node that fits. Pure.

Wakes on the service, its tasks and on nodes. A paused node keeps its task and gets none; a
drained node and one that no longer matches give theirs up. On a node that is down the task is
left as it is: it could run nowhere else, and goes on untouched when the node returns.
"""

from collections.abc import Sequence
from datetime import datetime

from manager.orchestrator.newtask import Maker
from manager.orchestrator.restart import heal
from manager.orchestrator.slots import Cell, by_slot, exhausted
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Group
from shoal.model.constraints import Constraint, first_unmet, parse_all
from shoal.model.defaults import Mode, mode_of
from shoal.model.errors import InvalidArgument
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Node, Task
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import Availability, NodeState


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give each fitting node a task of one global service and keep it alive."""
    service = view.service(ServiceID(key))
    if service is None or mode_of(service.spec) is not Mode.GLOBAL:
        return NOTHING
    make = Maker(view, service, now, ids)
    cells = by_slot(view.tasks_of_service(service.id))
    constraints = constraints_of(service.spec)
    groups: list[Group] = []
    for node in view.nodes():
        cell = (0, str(node.id))
        groups.extend(_of_node(make, node, cells.pop(cell, []), constraints))
    for tasks in cells.values():  # their node is gone
        groups.extend(give_up(make, tasks, "its node was removed"))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def constraints_of(spec: ServiceSpec) -> tuple[Constraint, ...] | None:
    """The parsed constraints; None where one cannot be read, which no node matches."""
    placement = spec.task_template.placement
    if placement is None:
        return ()
    try:
        return parse_all(placement.constraints)
    except InvalidArgument:
        return None


def _of_node(
    make: Maker,
    node: Node,
    tasks: Sequence[Task],
    constraints: tuple[Constraint, ...] | None,
) -> list[Group]:
    if node.state is NodeState.DOWN:
        return []
    if constraints is None or first_unmet(constraints, node) is not None:
        return give_up(make, tasks, "node does not match the constraints")
    if node.spec.availability == Availability.DRAIN:
        return give_up(make, tasks, "node is drained")
    cell: Cell = (0, str(node.id))
    if any(task.wanted for task in tasks):
        return heal(make, cell, tasks)
    if takes_new(node) and not exhausted(tasks):
        created = make.create(cell, make.predecessor(tasks), reason="wanted on each node")
        return [Group((created,), reason="a task for the node")]
    return []


def takes_new(node: Node) -> bool:
    """Whether a node is given new tasks; one not heard of would have them taken away again."""
    heard = node.state is NodeState.READY and node.lost_since is None
    return heard and node.spec.availability == Availability.ACTIVE


def give_up(make: Maker, tasks: Sequence[Task], reason: str) -> list[Group]:
    """Stop what is wanted of a node's tasks."""
    changes: tuple[Change, ...] = tuple(
        make.stop(task, reason) for task in tasks if task.wanted
    )
    return [Group(changes, reason=reason)] if changes else []
