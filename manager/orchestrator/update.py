"""Rolling updates and rollbacks: bring the slots of one service to its present spec. Pure.

Wakes on the service and its tasks. A slot is dirty while its task was made from a spec that
differs (`slots.Dirt`). Up to `parallelism` slots are under way at a time; a slot is under way
from its replacement's creation until that runs (or failed, or the deadline has passed) and the
delay after it is over. A failure is an updated task that ended by itself before it ran or
within the monitor period; beyond the ratio the update pauses, goes on or rolls back, once. What
must be remembered between steps is in `Service.update`, so a new leader goes on where the old
one was.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from manager.orchestrator.newtask import Maker
from manager.orchestrator.slots import Cell, Dirt, age, by_slot, ended_by_itself, exhausted
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Group, Update
from shoal.model.defaults import UpdateRule, is_job, update_rule
from shoal.model.ids import IdSource, ServiceID, TaskID
from shoal.model.objects import Service, Task, UpdatedSlot, UpdateProgress, UpdateStatus
from shoal.model.states import FailureAction, TaskState, UpdateOrder, UpdateState

AT_ONCE = 500  # slots begun in one step at most, so that a step fits into one transaction
_HALTED = frozenset({UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED})
_UNDER_WAY = frozenset({UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED})


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """The next step of a service's update; nothing where all slots are as they should be."""
    service = view.service(ServiceID(key))
    if service is None or is_job(service.spec):
        return NOTHING
    status = service.update_status
    progress = service.update
    if progress is not None and progress.spec_version != service.spec_version:
        progress = None
    if progress is not None and status is not None and status.state in _HALTED:
        return NOTHING
    tasks = view.tasks_of_service(service.id)
    todo = _dirty(Dirt(view, service), by_slot(tasks))
    if progress is None:
        if not todo:
            return _nothing_to_do(service, now)
        progress = UpdateProgress(spec_version=service.spec_version, total=len(todo))
    return _step(_Step(view, service, tasks, todo, progress, now, ids))


class _Step(msgspec.Struct):
    """What one step looks at."""

    view: View
    service: Service
    tasks: Sequence[Task]
    todo: list[tuple[Cell, list[Task]]]
    progress: UpdateProgress
    now: datetime
    ids: IdSource

    @property
    def rolling_back(self) -> bool:
        status = self.service.update_status
        return status is not None and status.state is UpdateState.ROLLBACK_STARTED

    @property
    def rule(self) -> UpdateRule:
        return update_rule(self.service.spec, rollback=self.rolling_back)


def _dirty(dirt: Dirt, cells: dict[Cell, list[Task]]) -> list[tuple[Cell, list[Task]]]:
    """Slots whose newest task that counts is of another spec, in order."""
    found = []
    for cell, tasks in cells.items():
        wanted = [task for task in tasks if task.wanted]
        if not wanted and exhausted(tasks):
            wanted = tasks[-1:]
        if wanted and all(dirt.of(task) for task in wanted):
            found.append((cell, wanted))
    return found


def _nothing_to_do(service: Service, now: datetime) -> Decision:
    """An update that had no slot to change is complete at once."""
    status = service.update_status
    if status is None or status.state not in _UNDER_WAY:
        return NOTHING
    return _write(service, (), _completed(status, now), None, now, "update completed")


def _step(step: _Step) -> Decision:
    progress = _observed(step)
    rule = step.rule
    failed = len(progress.failed) > rule.max_failure_ratio * max(progress.total, 1)
    if failed and rule.failure_action is not FailureAction.CONTINUE:
        return _fail(step, progress, rule)
    changes, begun = _begin(step, progress, rule)
    progress = msgspec.structs.replace(progress, slots=(*progress.slots, *begun))
    status = step.service.update_status
    if status is None or status.state not in _UNDER_WAY:
        status = UpdateStatus(
            state=UpdateState.UPDATING, started_at=step.now, message="update in progress"
        )
    if len(step.todo) == len(begun) and _watched(progress, rule, step.now):
        done = _completed(status, step.now)
        return _write(step.service, changes, done, None, step.now, "update completed")
    wake = _next_look(progress, rule, step.now)
    unchanged = progress == step.service.update and status == step.service.update_status
    if unchanged and not changes:
        return Decision(wake_at=wake)
    decision = _write(step.service, changes, status, progress, step.now, "update goes on")
    return msgspec.structs.replace(decision, wake_at=wake)


def _observed(step: _Step) -> UpdateProgress:
    """The progress with what has become of the slots under way."""
    deadline, monitor = step.rule.deadline, step.rule.monitor
    slots, late = [], []
    for slot in step.progress.slots:
        settled = slot.settled_at
        task = step.view.task(slot.task)
        if settled is None and (task is None or _settled(task)):
            settled = task.status.timestamp if task is not None else step.now
        elif settled is None and step.now - slot.begun_at >= deadline:
            settled = step.now
            late.append(slot.task)
        slots.append(msgspec.structs.replace(slot, settled_at=settled))
    watched_until = {
        slot.task: slot.settled_at + monitor for slot in slots if slot.settled_at is not None
    }
    failed = dict.fromkeys((*step.progress.failed, *late))
    for task in step.tasks:
        if task.spec_version != step.service.spec_version or not ended_by_itself(task):
            continue
        limit = watched_until.get(task.id)
        if limit is None or task.status.timestamp <= limit or _never_ran(task):
            failed[task.id] = None
    return msgspec.structs.replace(
        step.progress, slots=tuple(slots), failed=tuple(sorted(failed))
    )


def _settled(task: Task) -> bool:
    return task.ended or task.status.state is TaskState.RUNNING or not task.wanted


def _never_ran(task: Task) -> bool:
    return task.status.state is TaskState.REJECTED


def _fail(step: _Step, progress: UpdateProgress, rule: UpdateRule) -> Decision:
    """Pause, or go back to the previous spec; a rollback never rolls back."""
    service, now = step.service, step.now
    cause = f"failure or early termination of task {progress.failed[0]}"
    started = service.update_status.started_at if service.update_status is not None else now
    if step.rolling_back:
        status = UpdateStatus(
            state=UpdateState.ROLLBACK_PAUSED,
            started_at=started,
            message=f"rollback paused due to {cause}",
        )
        return _write(service, (), status, progress, now, "rollback paused")
    if rule.failure_action is FailureAction.ROLLBACK and service.previous_spec is not None:
        status = UpdateStatus(
            state=UpdateState.ROLLBACK_STARTED,
            started_at=now,
            message=f"update rolled back due to {cause}",
        )
        back: Service = msgspec.structs.replace(
            service,
            spec=service.previous_spec,
            spec_version=service.spec_version + 1,
            previous_spec=None,
            previous_spec_version=0,
        )
        return _write(back, (), status, None, now, f"roll back: {cause}")
    status = UpdateStatus(
        state=UpdateState.PAUSED,
        started_at=started,
        message=f"update paused due to {cause}",
    )
    return _write(service, (), status, progress, now, "update paused")


def _begin(
    step: _Step, progress: UpdateProgress, rule: UpdateRule
) -> tuple[list[Change], list[UpdatedSlot]]:
    """Replacements for as many dirty slots as may be under way beside those that are."""
    busy = sum(
        1
        for slot in progress.slots
        if slot.settled_at is None or step.now < slot.settled_at + rule.delay
    )
    room = rule.parallelism - busy if rule.parallelism else len(step.todo)
    make = Maker(step.view, step.service, step.now, step.ids)
    changes: list[Change] = []
    begun: list[UpdatedSlot] = []
    for cell, old in step.todo[: max(0, min(room, AT_ONCE))]:
        made = _replace(make, cell, old, rule)
        changes.extend(made)
        new = made[-1].object
        begun.append(UpdatedSlot(task=TaskID(new.id), begun_at=step.now))
    return changes, begun


def _replace(make: Maker, cell: Cell, old: Sequence[Task], rule: UpdateRule) -> list[Change]:
    """Changes that replace a slot's tasks; the new task's creation comes last."""
    newest = max(old, key=age)
    runs = newest.wanted and newest.status.state is TaskState.RUNNING
    if runs and rule.order is UpdateOrder.START_FIRST:
        return [make.create(cell, newest, beside=True, reason="updated")]
    stopped: list[Change] = [make.stop(task, "updated") for task in old if task.wanted]
    return [*stopped, make.create(cell, make.followed(newest), reason="updated")]


def _watched(progress: UpdateProgress, rule: UpdateRule, now: datetime) -> bool:
    """Whether every slot has settled and its monitor period is over."""
    return all(
        slot.settled_at is not None and now >= slot.settled_at + rule.monitor
        for slot in progress.slots
    )


def _next_look(progress: UpdateProgress, rule: UpdateRule, now: datetime) -> datetime | None:
    instants = []
    for slot in progress.slots:
        if slot.settled_at is None:
            instants.append(slot.begun_at + rule.deadline)
        else:
            instants += [slot.settled_at + rule.delay, slot.settled_at + rule.monitor]
    return min((instant for instant in instants if instant > now), default=None)


def _completed(status: UpdateStatus, now: datetime) -> UpdateStatus:
    back = status.state is UpdateState.ROLLBACK_STARTED
    return UpdateStatus(
        state=UpdateState.ROLLBACK_COMPLETED if back else UpdateState.COMPLETED,
        started_at=status.started_at,
        completed_at=now,
        message="rollback completed" if back else "update completed",
    )


def _write(
    service: Service,
    changes: Sequence[Change],
    status: UpdateStatus,
    progress: UpdateProgress | None,
    now: datetime,
    reason: str,
) -> Decision:
    """The service with its progress and the tasks of this step, as one group."""
    changed = msgspec.structs.replace(
        service, update_status=status, update=progress, updated_at=now
    )
    return Decision(groups=(Group((*changes, Update(changed)), reason),))
