"""Which tasks and spec versions to delete, and which tasks nobody will report any more. Pure.

History is kept per slot (per node for global services), jobs included: the limit counts the
slot's living task too, and a policy with `max_attempts` keeps what it counts. `decide` is keyed
by service, `orphan` by node.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from manager.orchestrator.slots import by_slot
from manager.view import View
from shoal.model.changes import NOTHING, Decision, Delete, Group, Update
from shoal.model.defaults import history_limit, restart_rule
from shoal.model.ids import IdSource, NodeID, ServiceID
from shoal.model.objects import Service, Task, TaskStatus
from shoal.model.states import NodeState, TaskState

ORPHANED_AFTER = timedelta(hours=24)


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Delete what is over: removed tasks, old history, specs without tasks."""
    del now, ids
    service_id = ServiceID(key)
    service = view.service(service_id)
    tasks = view.tasks_of_service(service_id)
    doomed = {task.id: task for task in tasks if _over(view, task)}
    if service is not None:
        limit = history_limit(view.cluster())
        for slot in by_slot(tasks).values():
            for task in _history(slot, service, limit):
                doomed[task.id] = task
    groups = [
        Group((Delete(task),), reason="the task is over") for _, task in sorted(doomed.items())
    ]
    used = {task.spec_version for task in tasks if task.id not in doomed}
    if service is not None:
        used.add(service.spec_version)
    for version in view.versions_of_service(service_id):
        beyond = service is not None and version.number > service.spec_version
        if version.number not in used and not beyond:
            groups.append(Group((Delete(version),), reason="no task has this spec"))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _over(view: View, task: Task) -> bool:
    """Whether the task is to go and runs nowhere, or never reached a node."""
    if task.wanted:
        return False
    if task.status.state < TaskState.ASSIGNED:
        return True
    gone = task.node_id is None or view.node(task.node_id) is None
    return task.desired_state is TaskState.REMOVE and (task.ended or gone)


def _history(slot: Sequence[Task], service: Service, limit: int) -> Iterable[Task]:
    """The slot's oldest ended tasks beyond the limit.

    Of a slot that is over the last end stays, or the slot would look as if it never had a task.
    """
    if limit < 0:
        return ()
    attempts = restart_rule(service.spec).max_attempts
    keep = max(limit, attempts + 1) if attempts else limit
    alive = sum(1 for task in slot if task.wanted or not task.ended)
    over = [task for task in slot if not task.wanted and task.ended]
    room = max(keep - alive, 0 if alive else 1)
    return over[: max(len(over) - room, 0)]


def orphan(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Tasks of a node that was removed, or down for a day, are orphaned.

    Persons' containers on its networks are let go with the node, and no earlier.
    """
    del ids
    node_id = NodeID(key)
    node = view.node(node_id)
    if node is not None:
        if node.state is not NodeState.DOWN or node.down_since is None:
            return NOTHING
        if now < node.down_since + ORPHANED_AFTER:
            return Decision(wake_at=node.down_since + ORPHANED_AFTER)
    why = "its node was removed" if node is None else "its node has been down for a day"
    groups: list[Group] = []
    for task in view.tasks_of_node(node_id):
        if task.attached is None:
            if not task.ended:
                groups.append(Group((Update(_orphaned(task, why, now)),), reason=why))
        elif node is None:
            groups.append(Group((Delete(task),), reason=why))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _orphaned(task: Task, why: str, now: datetime) -> Task:
    status = msgspec.structs.replace(
        task.status, state=TaskState.ORPHANED, timestamp=now, message=why, err=why
    )
    assert isinstance(status, TaskStatus)  # noqa: S101 - narrows a type that the row's selection guarantees
    return msgspec.structs.replace(task, status=status, updated_at=now)
