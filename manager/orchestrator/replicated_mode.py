"""Replicated services: as many slots as replicas, each with a task. Pure.

Wakes on the service, on its tasks and on nodes that come or go. Fills the lowest free slots,
gives up those that do not run first, then those on the nodes that have most of the service.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from manager.orchestrator.newtask import Maker
from manager.orchestrator.restart import heal
from manager.orchestrator.slots import Cell, by_slot, exhausted
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Group
from shoal.model.defaults import Mode, mode_of, replicas_of
from shoal.model.ids import IdSource, NodeID, ServiceID
from shoal.model.objects import Task
from shoal.model.states import TaskState

Cells = dict[Cell, list[Task]]


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Bring one replicated service's slots to the wanted number and keep them alive."""
    service = view.service(ServiceID(key))
    if service is None or mode_of(service.spec) is not Mode.REPLICATED:
        return NOTHING
    make = Maker(view, service, now, ids)
    cells = by_slot(view.tasks_of_service(service.id))
    occupied = {
        cell: tasks
        for cell, tasks in cells.items()
        if any(task.wanted for task in tasks) or exhausted(tasks)
    }
    replicas = replicas_of(service.spec)
    victims = surplus(occupied, len(occupied) - replicas)
    groups: list[Group] = []
    for cell, tasks in occupied.items():
        if cell not in victims:
            groups.extend(heal(make, cell, tasks))
    groups.extend(_fill(make, cells, occupied, replicas - len(occupied)))
    free = [cell for cell in cells if cell not in occupied and cell[0] > replicas]
    groups.extend(_give_up(make, cells, (*victims, *free)))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _fill(make: Maker, cells: Cells, occupied: Cells, count: int) -> Iterable[Group]:
    """New tasks in the lowest free slots."""
    number = 0
    while count > 0:
        number += 1
        cell = (number, "")
        if cell in occupied:
            continue
        count -= 1
        before = make.predecessor(cells.get(cell, ()))
        created = make.create(cell, before, reason="wanted by the service")
        yield Group((created,), reason="fill a slot")


def _give_up(make: Maker, cells: Cells, given_up: Iterable[Cell]) -> Iterable[Group]:
    """Remove every task of slots that are wanted no more."""
    for cell in given_up:
        changes: tuple[Change, ...] = tuple(
            make.remove(task, "its slot is not wanted any more")
            for task in cells[cell]
            if task.desired_state < TaskState.REMOVE
        )
        if changes:
            yield Group(changes, reason="scale down")


def surplus(occupied: Cells, count: int) -> dict[Cell, None]:
    """The slots to give up, in order: not running, then from the fullest nodes."""
    if count <= 0:
        return {}
    copies: dict[NodeID, int] = {}
    ranked: list[tuple[bool, int, int, Cell]] = []
    for cell, tasks in occupied.items():
        node = _runs_on(tasks)
        if node is not None:
            copies[node] = copies.get(node, 0) + 1
        nth = copies[node] if node is not None else 0
        ranked.append((node is not None, -nth, -cell[0], cell))
    ranked.sort()
    return {entry[3]: None for entry in ranked[:count]}


def _runs_on(tasks: Sequence[Task]) -> NodeID | None:
    """The node of the slot's running task."""
    for task in tasks:
        if task.wanted and task.status.state is TaskState.RUNNING:
            return task.node_id
    return None
