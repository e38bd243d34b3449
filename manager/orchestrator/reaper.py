"""Which tasks and specs go: of removed services, wanted no more, beyond history. Pure.

Wakes on a service and its tasks. A task that may still run is never deleted, so that its node
is told to stop it first; on a node that was removed nothing runs.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from manager.orchestrator.slots import age, by_slot
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Delete, Group, Update
from shoal.model.defaults import history_limit, restart_rule
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Task
from shoal.model.states import TaskState


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Tidy up after one service."""
    del ids
    service_id = ServiceID(key)
    tasks = view.tasks_of_service(service_id)
    groups: list[Group] = []
    if view.service(service_id) is None:
        groups += [
            Group((_remove(task, now),), "its service was removed")
            for task in tasks
            if task.desired_state < TaskState.REMOVE
        ]
    gone = {task.id: task for task in tasks if _unwanted(view, task)}
    for cell in by_slot(tasks).values():
        gone |= {task.id: task for task in _old(view, cell)}
    groups += [Group((Delete(task),), "task is history") for task in gone.values()]
    groups += _specs(view, service_id, [task for task in tasks if task.id not in gone])
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _remove(task: Task, now: datetime) -> Change:
    return Update(msgspec.structs.replace(task, desired_state=TaskState.REMOVE, updated_at=now))


def _unwanted(view: View, task: Task) -> bool:
    """Whether it is to be removed and surely does not run (any more)."""
    return task.desired_state is TaskState.REMOVE and _over(view, task)


def _over(view: View, task: Task) -> bool:
    if task.ended or task.status.state < TaskState.ASSIGNED or task.node_id is None:
        return True
    return view.node(task.node_id) is None


def _old(view: View, cell: Sequence[Task]) -> Iterable[Task]:
    """Ended tasks of a slot beyond the history limit, oldest first."""
    limit = history_limit(view.cluster())
    if limit < 0:
        return ()
    for task in cell:
        attempts = restart_rule(task.service_spec).max_attempts
        if attempts:
            limit = max(limit, attempts + 1)
    dead = sorted((t for t in cell if not t.wanted and _over(view, t)), key=age)
    return dead[: max(0, len(dead) - limit)]


def _specs(view: View, service_id: ServiceID, left: Sequence[Task]) -> list[Group]:
    """Stored specs that neither the service nor a task refers to."""
    service = view.service(service_id)
    used = {task.spec_version for task in left}
    if service is not None:
        used.add(service.spec_version)
    return [
        Group((Delete(version),), "no task has this spec any more")
        for version in view.versions_of_service(service_id)
        if version.number not in used
    ]
