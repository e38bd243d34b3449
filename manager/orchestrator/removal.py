"""Tasks of services that are gone are to stop and to go. Pure.

Wakes on a service's deletion. The reaper deletes the tasks once they have stopped.
"""

from datetime import datetime

import msgspec

from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource, ServiceID
from shoal.model.states import TaskState

REASON = "its service was removed"


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Remove every task of a service that is not there."""
    del ids
    service = ServiceID(key)
    if view.service(service) is not None:
        return NOTHING
    groups = tuple(
        Group(
            (
                Update(
                    msgspec.structs.replace(
                        task, desired_state=TaskState.REMOVE, updated_at=now, reason=REASON
                    )
                ),
            ),
            reason=REASON,
        )
        for task in view.tasks_of_service(service)
        if task.desired_state < TaskState.REMOVE
    )
    return Decision(groups=groups) if groups else NOTHING
