"""Global services: one task on each node that takes tasks and meets the constraints. Pure.

Wakes on the service, its tasks, and every node's coming, going and changing. The node stands
for the slot, so a task is never moved: a node that leaves stops it, one that returns gets a new
one.
"""

from datetime import datetime

from manager.orchestrator.newtask import Maker
from manager.orchestrator.restart import heal
from manager.orchestrator.slots import Cell, by_slot, exhausted
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Group
from shoal.model.constraints import first_unmet, parse_all
from shoal.model.defaults import Mode, mode_of
from shoal.model.errors import InvalidArgument
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Node, Service, Task
from shoal.model.states import Availability, NodeState


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """One task a fitting node; none on the others."""
    service = view.service(ServiceID(key))
    if service is None or mode_of(service.spec) is not Mode.GLOBAL:
        return NOTHING
    make = Maker(view, service, now, ids)
    cells = by_slot(view.tasks_of_service(service.id))
    groups: list[Group] = []
    for node in view.nodes():
        tasks = cells.pop((0, node.id), [])
        groups.extend(_node(make, service, node, tasks))
    for cell, tasks in cells.items():
        groups.extend(heal(make, cell, tasks))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _node(make: Maker, service: Service, node: Node, tasks: list[Task]) -> list[Group]:
    cell: Cell = (0, node.id)
    wanted = [task for task in tasks if task.wanted]
    if not _meets(service, node):
        stops: tuple[Change, ...] = tuple(
            make.stop(task, "its node does not meet the service's constraints")
            for task in wanted
        )
        return [Group(stops, "constraints no longer met")] if stops else []
    if wanted or exhausted(tasks):
        return heal(make, cell, tasks)
    if node.state is not NodeState.READY or node.spec.availability != Availability.ACTIVE:
        return []
    before = make.predecessor(tasks)
    return [Group((make.create(cell, before, reason="wanted on every node"),), "fill a node")]


def _meets(service: Service, node: Node) -> bool:
    placement = service.spec.task_template.placement
    if placement is None:
        return True
    try:
        return first_unmet(parse_all(placement.constraints), node) is None
    except InvalidArgument:
        return False
