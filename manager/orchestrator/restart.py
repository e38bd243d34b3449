"""Keeping one slot alive: dead tasks followed, lost ones moved, start-first pairs finished.

Pure. `heal` is called by every service mode for each slot that is to be kept; `decide` is the
row that lets held tasks start: once their delay is over and the task they follow has stopped,
which is waited for no longer than a minute and not at all where its node is down.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from manager.orchestrator.newtask import Maker, goal
from manager.orchestrator.slots import (
    Cell,
    age,
    ended_by_itself,
    may_restart,
    stopping,
    unreachable,
    why_leaving,
)
from manager.view import View
from shoal.model.changes import NOTHING, Change, Decision, Group, Update
from shoal.model.defaults import restart_rule, update_rule
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Task
from shoal.model.states import Availability, TaskState, UpdateOrder

STOP_WAIT = timedelta(minutes=1)


def heal(make: Maker, cell: Cell, tasks: Sequence[Task]) -> list[Group]:
    """What a slot that is to be kept needs now; nothing where it is well."""
    tasks = [task for task in tasks if not _waits(task, make.now)]
    wanted = [task for task in tasks if task.wanted]
    leaving = [task for task in wanted if _leaves(make.view, task)]
    dead = [task for task in wanted if task.ended and task not in leaving]
    staying = [task for task in wanted if not task.ended and task not in leaving]
    if not dead and not leaving and len(staying) < 2:
        return []
    if staying:
        return _tidy(make, cell, tasks, staying)
    if leaving:
        return _move(make, cell, tasks, leaving, dead)
    return _restart(make, cell, tasks, dead)


def _waits(task: Task, now: datetime) -> bool:
    """Whether it ended before its time to start had come, which is waited for all the same.

    Otherwise what cannot even be prepared would be tried without any delay.
    """
    held = task.desired_state is TaskState.READY and task.ended
    return held and task.start_after is not None and task.start_after > now


def _leaves(view: View, task: Task) -> bool:
    """Whether its node cannot keep it, or went and took it along."""
    lost = not task.ended or task.status.state is TaskState.ORPHANED
    return lost and why_leaving(view, task) is not None


def _tidy(
    make: Maker, cell: Cell, tasks: Sequence[Task], staying: Sequence[Task]
) -> list[Group]:
    """One task stays; what it replaces goes when it runs, what died beside it is followed."""
    newest = max(staying, key=age)
    gone: list[Change] = []
    for task in tasks:
        if not task.wanted or task.id == newest.id:
            continue
        if task.ended:
            gone.extend(_bury(make, cell, tasks, task))
        elif newest.status.state is TaskState.RUNNING:
            gone.append(make.stop(task, f"replaced by task {newest.id}"))
        elif task.id != newest.replaces and not _held_back(make, task):
            gone.append(make.stop(task, "more than one task in its slot"))
    return [Group(tuple(gone), reason="finish the replacement of a task")] if gone else []


def _held_back(make: Maker, task: Task) -> bool:
    """Whether the task runs: the one that serves is never stopped for one that does not."""
    return task.status.state is TaskState.RUNNING and not unreachable(make.view, task)


def _bury(make: Maker, cell: Cell, tasks: Sequence[Task], dead: Task) -> list[Change]:
    """A dead task beside a living one: its successor, where it was to replace that one."""
    changes: list[Change] = [make.stop(dead, "ended")]
    target = make.view.task(dead.replaces) if dead.replaces is not None else None
    rivals = [t for t in tasks if t.wanted and not t.ended and t is not target]
    if (
        target is None
        or not target.wanted
        or target.ended
        or any(rival.id != target.id for rival in rivals)
    ):
        return changes
    if may_restart(dead, tasks):
        delay = restart_rule(dead.service_spec).delay
        changes.append(make.create(cell, target, beside=True, delay=delay, reason=_after(dead)))
    return changes


def _move(
    make: Maker,
    cell: Cell,
    tasks: Sequence[Task],
    leaving: Sequence[Task],
    dead: Sequence[Task],
) -> list[Group]:
    """A new task elsewhere, at once; the old one goes, or stays until then (start-first).

    The restart policy has no say: nothing ended by itself. It has where what was to replace a
    task that stays has ended, or that would be tried again as fast as it fails.
    """
    newest = max(leaving, key=age)
    why = why_leaving(make.view, newest) or ""
    kept = _stays_meanwhile(make, leaving)
    changes: list[Change] = [
        make.stop(task, why_leaving(make.view, task) or "ended")
        for task in (*leaving, *dead)
        if task is not kept
    ]
    ends = [t for t in tasks if kept and t.replaces == kept.id and ended_by_itself(t)]
    if not cell[1] and (not ends or may_restart(ends[-1], tasks)):
        changes.append(
            make.create(
                cell,
                kept or make.followed(newest),
                beside=kept is not None,
                delay=restart_rule(ends[-1].service_spec).delay if ends else timedelta(),
                reason=f"replaces task {newest.id}: {why}",
            )
        )
    return [Group(tuple(changes), reason=why)] if changes else []


def _stays_meanwhile(make: Maker, leaving: Sequence[Task]) -> Task | None:
    """What serves on a drained node until its successor does, with update order start-first."""
    if update_rule(make.service.spec).order is not UpdateOrder.START_FIRST:
        return None
    serving = [task for task in leaving if task.slot and _held_back(make, task)]
    return max(serving, key=age, default=None)


def _restart(
    make: Maker, cell: Cell, tasks: Sequence[Task], dead: Sequence[Task]
) -> list[Group]:
    """The newest dead task is followed by a new one after the delay, if the policy says so."""
    newest = max(dead, key=age)
    changes: list[Change] = [make.stop(task, "ended") for task in dead]
    if may_restart(newest, tasks):
        delay = restart_rule(newest.service_spec).delay
        if _drained(make.view, newest):
            delay = timedelta()
        changes.append(
            make.create(cell, make.followed(newest), delay=delay, reason=_after(newest))
        )
    return [Group(tuple(changes), reason=_after(newest))]


def _after(task: Task) -> str:
    """Why a dead task is replaced."""
    said = f": {task.status.err}" if task.status.err else ""
    return f"replaces task {task.id}, which is {task.status.state.api_name}{said}"


def _drained(view: View, task: Task) -> bool:
    node = view.node(task.node_id) if task.node_id is not None else None
    return node is not None and node.spec.availability == Availability.DRAIN


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Let held tasks of a service start whose time has come."""
    del ids
    service = ServiceID(key)
    groups: list[Group] = []
    wakes: list[datetime] = []
    for task in view.tasks_of_service(service):
        if task.desired_state is not TaskState.READY:
            continue
        due = _due(view, task, now)
        if due <= now:
            groups.append(Group((_start(task, now),), reason="its time to start has come"))
        else:
            wakes.append(due)
    if not groups and not wakes:
        return NOTHING
    return Decision(groups=tuple(groups), wake_at=min(wakes, default=None))


def _due(view: View, task: Task, now: datetime) -> datetime:
    """The earliest instant at which it may start, as far as is known now."""
    earliest = task.start_after if task.start_after is not None else now
    before = view.task(task.replaces) if task.replaces is not None else None
    if before is None or not stopping(before) or unreachable(view, before):
        return earliest
    return max(earliest, task.created_at + STOP_WAIT)


def _start(task: Task, now: datetime) -> Update:
    state = goal(task.job_iteration is not None)
    return Update(msgspec.structs.replace(task, desired_state=state, updated_at=now))
