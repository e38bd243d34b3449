"""NEW tasks become PENDING once what their service needs is allocated. Pure.

Wakes on a service and its new tasks, runs before the scheduler. Where something is not to be
had, the tasks wait and say why.
"""

from datetime import datetime

import msgspec

from manager.allocator.ports import why_unallocated
from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Task, TaskStatus
from shoal.model.states import TaskState

MESSAGE = "pending task scheduling"


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Pass on the new tasks of one service, or say what they wait for."""
    del ids
    service = view.service(ServiceID(key))
    if service is None:
        return NOTHING
    new = [
        task
        for task in view.tasks_of_service(service.id)
        if task.status.state is TaskState.NEW and task.wanted
    ]
    if not new:
        return NOTHING
    lack = why_unallocated(view, service)
    groups = [
        Group((Update(changed),), reason=lack or "nothing to wait for")
        for task in new
        if (changed := _next(task, lack, now)) is not None
    ]
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _next(task: Task, lack: str | None, now: datetime) -> Task | None:
    if lack is None:
        status = TaskStatus(state=TaskState.PENDING, timestamp=now, message=MESSAGE)
    elif task.status.err == lack:
        return None
    else:
        status = TaskStatus(state=TaskState.NEW, timestamp=now, message=lack, err=lack)
    return msgspec.structs.replace(task, status=status, updated_at=now)
