"""New tasks, and old ones that are to stop: the only makers of task changes by orchestrators.

Pure. Called by the deciders of the service modes and by the updater.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from manager.orchestrator.slots import Cell, stopping, unreachable
from manager.view import View
from shoal.model.changes import Create, Update
from shoal.model.defaults import is_job
from shoal.model.ids import IdSource, NodeID, TaskID
from shoal.model.objects import Service, Task, TaskStatus
from shoal.model.states import TaskState


class Maker(msgspec.Struct, frozen=True):
    """Makes and stops tasks of one service in one decision."""

    view: View
    service: Service
    now: datetime
    ids: IdSource

    def create(
        self,
        cell: Cell,
        follows: Task | None = None,
        *,
        beside: bool = False,
        delay: timedelta = timedelta(),
        reason: str = "",
    ) -> Create:
        """A new task for a slot, of the service's present spec.

        Args:
            cell: the slot.
            follows: the task it takes the place of.
            beside: it runs beside `follows` until it runs (start-first).
            delay: it starts no earlier than this from now.
            reason: why it is made.
        """
        waits = follows is not None and not beside and self._must_stop(follows)
        held = waits or delay > timedelta()
        spec = self.service.spec
        return Create(
            Task(
                id=TaskID(self.ids.new()),
                service_id=self.service.id,
                spec_version=self.service.spec_version,
                service_spec=spec,
                created_at=self.now,
                updated_at=self.now,
                slot=cell[0],
                node_id=NodeID(cell[1]) if cell[1] else None,
                desired_state=TaskState.READY if held else goal(is_job(spec)),
                status=TaskStatus(state=TaskState.NEW, timestamp=self.now, message="created"),
                job_iteration=iteration_of(self.service),
                start_after=self.now + delay if delay > timedelta() else None,
                replaces=follows.id if follows is not None else None,
                reason=reason,
            )
        )

    def stop(self, task: Task, reason: str) -> Update:
        """The task is to stop; it stays as history."""
        return self._desire(task, TaskState.SHUTDOWN, reason)

    def remove(self, task: Task, reason: str) -> Update:
        """The task is to stop and to go."""
        return self._desire(task, TaskState.REMOVE, reason)

    def predecessor(self, tasks: Sequence[Task]) -> Task | None:
        """The slot's task that is still stopping, which a new one has to wait for."""
        found = [
            task
            for task in tasks
            if stopping(task) and task.desired_state is TaskState.SHUTDOWN
        ]
        return found[-1] if found else None

    def followed(self, task: Task) -> Task:
        """What a successor of `task` follows: the task that it waits for itself, if it does."""
        if task.desired_state is not TaskState.READY or task.replaces is None:
            return task
        before = self.view.task(task.replaces)
        if before is not None and not before.ended and before.slot == task.slot:
            return before
        return task

    def _must_stop(self, task: Task) -> bool:
        started = task.status.state >= TaskState.ASSIGNED and not task.ended
        return started and not unreachable(self.view, task)

    def _desire(self, task: Task, state: TaskState, reason: str) -> Update:
        changed = msgspec.structs.replace(
            task,
            desired_state=max(task.desired_state, state),
            updated_at=self.now,
            reason=reason,
        )
        return Update(changed)


def goal(job: bool) -> TaskState:
    """What a task is finally desired to reach."""
    return TaskState.COMPLETE if job else TaskState.RUNNING


def iteration_of(service: Service) -> int | None:
    """The iteration that tasks of a job belong to; None for other services."""
    if not is_job(service.spec):
        return None
    return service.job_status.iteration if service.job_status is not None else 0
