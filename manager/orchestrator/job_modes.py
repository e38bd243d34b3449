"""Job services: tasks that run to completion, once an iteration. Pure.

A replicated job fills slots 1 to its completions, as many at a time as it may; a global job
runs once on each node that fits, nodes that join later included. Unfinished tasks of an earlier
iteration are removed. Wakes as the other modes do.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from manager.orchestrator.global_mode import constraints_of, takes_new
from manager.orchestrator.newtask import Maker, iteration_of
from manager.orchestrator.restart import heal
from manager.orchestrator.slots import Cell, by_slot, exhausted
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Group
from shoal.model.constraints import first_unmet
from shoal.model.defaults import Mode, job_size, mode_of
from shoal.model.ids import IdSource, NodeID, ServiceID
from shoal.model.objects import Task
from shoal.model.states import NodeState, TaskState

Cells = dict[Cell, list[Task]]


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Bring one job's present iteration on."""
    service = view.service(ServiceID(key))
    if service is None:
        return NOTHING
    mode = mode_of(service.spec)
    if mode not in (Mode.REPLICATED_JOB, Mode.GLOBAL_JOB):
        return NOTHING
    make = Maker(view, service, now, ids)
    iteration = iteration_of(service)
    tasks = view.tasks_of_service(service.id)
    groups = [
        Group((make.remove(task, "an earlier iteration"),), reason="a new iteration began")
        for task in tasks
        if task.job_iteration != iteration and not _completed(task) and task.wanted
    ]
    cells = by_slot(task for task in tasks if task.job_iteration == iteration)
    if mode is Mode.REPLICATED_JOB:
        groups.extend(_replicated(make, cells))
    else:
        groups.extend(_global(make, cells))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _replicated(make: Maker, cells: Cells) -> Iterable[Group]:
    size = job_size(make.service.spec)
    active = 0
    open_: list[Cell] = []
    for number in range(1, size.completions + 1):
        cell = (number, "")
        tasks = cells.get(cell, [])
        if any(_completed(task) for task in tasks) or exhausted(tasks):
            yield from _settle(make, tasks)
        elif any(task.wanted for task in tasks):
            active += 1
            yield from heal(make, cell, tasks)
        else:
            open_.append(cell)
    for cell in open_[: max(size.concurrent - active, 0)]:
        before = make.predecessor(cells.get(cell, ()))
        yield Group((make.create(cell, before, reason="wanted by the job"),), reason="job slot")
    for cell, tasks in cells.items():
        if cell[0] > size.completions:
            changes: tuple[Change, ...] = tuple(
                make.remove(task, "its slot is not wanted any more")
                for task in tasks
                if task.desired_state < TaskState.REMOVE
            )
            if changes:
                yield Group(changes, reason="the job was made smaller")


def _global(make: Maker, cells: Cells) -> Iterable[Group]:
    constraints = constraints_of(make.service.spec)
    for node in make.view.nodes():
        cell: Cell = (0, str(node.id))
        tasks = cells.get(cell, [])
        if any(_completed(task) for task in tasks) or exhausted(tasks):
            yield from _settle(make, tasks)
        elif node.state is NodeState.DOWN:
            continue
        elif any(task.wanted for task in tasks):
            yield from heal(make, cell, tasks)
        elif (
            takes_new(node)
            and constraints is not None
            and first_unmet(constraints, node) is None
        ):
            before = make.predecessor(tasks)
            yield Group(
                (make.create(cell, before, reason="wanted by the job"),), "job on a node"
            )
    for cell, tasks in cells.items():
        removed = make.view.node(NodeID(cell[1])) is None
        if removed and not any(_completed(task) for task in tasks):
            yield from heal(make, cell, tasks)


def _settle(make: Maker, tasks: Sequence[Task]) -> Iterable[Group]:
    """The slot is done: what is still wanted in it stops, the completed task stays as it is."""
    changes: tuple[Change, ...] = tuple(
        make.stop(task, "its slot is done")
        for task in tasks
        if task.wanted and not _completed(task)
    )
    if changes:
        yield Group(changes, reason="the slot is done")


def _completed(task: Task) -> bool:
    return task.status.state is TaskState.COMPLETE
