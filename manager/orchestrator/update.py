"""The next step of a rolling update or rollback. Pure.

Keyed by service; wakes on the service and its tasks, after the service's mode. What must be
remembered is `Service.update`; where the update stands for the user is `Service.update_status`.
A request of the user's (by `manager.control`) sets `update_status` to None, or to
ROLLBACK_STARTED for a rollback: this begins anew, with the slots it has begun already. A slot
is busy until its new task runs, has ended or is later than the deadline, and for the delay
after that; `parallelism` slots are busy at a time. Early ends and late starts are failures. The
service's own change comes first, so that a slot never changes unseen; an entry whose task never
came to be is dropped again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from manager.orchestrator.global_mode import constraints_of, takes_new
from manager.orchestrator.newtask import Maker
from manager.orchestrator.slots import (
    Cell,
    Dirt,
    age,
    by_slot,
    cell_of,
    ended_by_itself,
    exhausted,
)
from manager.view import View
from shoal.model.changes import NOTHING, Change, Create, Decision, Group, Update
from shoal.model.constraints import first_unmet
from shoal.model.defaults import UpdateRule, endpoint_of, is_host_port, is_job, update_rule
from shoal.model.ids import ConfigID, IdSource, NetworkID, NodeID, SecretID, ServiceID, TaskID
from shoal.model.objects import Service, Task, UpdatedSlot, UpdateProgress, UpdateStatus
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import (
    FailureAction,
    TaskState,
    UpdateOrder,
    UpdateState,
)

Cells = dict[Cell, list[Task]]
_ROLLBACK = frozenset(
    {
        UpdateState.ROLLBACK_STARTED,
        UpdateState.ROLLBACK_PAUSED,
        UpdateState.ROLLBACK_COMPLETED,
    }
)
_RUNS = frozenset({UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED})
_STOPPED = frozenset({UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED})


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """One step of one service's update, if there is one."""
    service = view.service(ServiceID(key))
    if service is None or is_job(service.spec):
        return NOTHING
    cells = by_slot(view.tasks_of_service(service.id))
    dirty = _dirty(view, service, cells)
    present = service.update
    if present is None or _superseded(service, present):
        under_way = _under_way(view, service, present)
        if not dirty and not under_way and not _running(service):
            return NOTHING
        service = _begin(service, under_way, len(dirty), now)
    elif not _running(service):
        return NOTHING
    return _Step(Maker(view, service, now, ids), dirty).take(view.service(service.id))


def _running(service: Service) -> bool:
    status = service.update_status
    return status is not None and status.state in _RUNS


def _superseded(service: Service, present: UpdateProgress) -> bool:
    """Whether the user, or a failure, has asked for another update meanwhile."""
    return service.update_status is None or present.spec_version != service.spec_version


def _under_way(
    view: View, service: Service, present: UpdateProgress | None
) -> tuple[UpdatedSlot, ...]:
    """Slots that the update before has begun and watches, whose tasks are right as they are.

    A task of the spec that is taken back is none of them, though what runs beside it be right.
    """
    if present is None:
        return ()
    dirt = Dirt(view, service)
    return tuple(
        slot
        for slot in present.slots
        if (task := view.task(slot.task)) is not None
        and task.wanted
        and not task.ended
        and not dirt.of(task)
    )


def _begin(
    service: Service, under_way: tuple[UpdatedSlot, ...], dirty: int, now: datetime
) -> Service:
    status = service.update_status
    if status is None or status.state not in _RUNS:
        status = UpdateStatus(
            state=UpdateState.UPDATING, started_at=now, message="update in progress"
        )
    progress = UpdateProgress(
        spec_version=service.spec_version, total=dirty + len(under_way), slots=under_way
    )
    return msgspec.structs.replace(service, update=progress, update_status=status)


def _dirty(view: View, service: Service, cells: Cells) -> Cells:
    """The slots that hold nothing of the present spec and can be brought to it."""
    dirt = Dirt(view, service)
    updatable = _Updatable(view, service)
    found: Cells = {}
    for cell, tasks in cells.items():
        wanted = [task for task in tasks if task.wanted]
        if cell[1] and not updatable(NodeID(cell[1])):
            continue
        if not wanted:
            if exhausted(tasks) and dirt.of(_newest(tasks)):
                found[cell] = tasks
        elif all(dirt.of(task) for task in wanted) and not _given_up(service, tasks):
            found[cell] = tasks
    return found


def _newest(tasks: Sequence[Task]) -> Task:
    return max((t for t in tasks if t.desired_state < TaskState.REMOVE), key=age)


def _given_up(service: Service, tasks: Sequence[Task]) -> bool:
    """Whether the slot had its task of this version, which ended and may not be restarted."""
    mine = [task for task in tasks if task.spec_version == service.spec_version]
    return bool(mine) and exhausted(mine)


class _Updatable:
    """Tells on which nodes a global service's task is replaced now: where it may have one."""

    def __init__(self, view: View, service: Service) -> None:
        self._view = view
        self._constraints = constraints_of(service.spec)

    def __call__(self, identity: NodeID) -> bool:
        node = self._view.node(identity)
        return (
            node is not None
            and self._constraints is not None
            and takes_new(node)
            and first_unmet(self._constraints, node) is None
        )


class _Step:
    """One look at a running update."""

    def __init__(self, make: Maker, dirty: Cells) -> None:
        assert make.service.update is not None  # noqa: S101 - narrows a type that the row's selection guarantees
        assert make.service.update_status is not None  # noqa: S101 - narrows a type that the row's selection guarantees
        self._make = make
        self._dirty = dirty
        self._service = make.service
        self._progress: UpdateProgress = make.service.update
        self._status: UpdateStatus = make.service.update_status
        self._rollback = self._status.state in _ROLLBACK
        self._rule: UpdateRule = update_rule(self._service.spec, rollback=self._rollback)
        self._now = make.now

    def take(self, stored: Service | None) -> Decision:
        """The service's change first, then that of each slot begun."""
        watched, failed = self._watch()
        culprit = next((task for task in failed if task not in self._progress.failed), None)
        self._progress = msgspec.structs.replace(self._progress, slots=watched, failed=failed)
        if culprit is not None and self._too_many(failed):
            stopped = self._fail(culprit)
            if stopped is not None:
                return Decision(groups=(self._write(stopped),))
        slots, begun = self._begin_slots(watched)
        self._progress = msgspec.structs.replace(self._progress, slots=slots)
        waiting = len(self._dirty) > len(begun)
        if not slots and not waiting:
            return Decision(groups=(self._write(self._complete()),))
        changed = msgspec.structs.replace(
            self._service, update=self._progress, update_status=self._status
        )
        groups = [self._write(changed)] if changed != stored else []
        wake = min(self._wakes(slots, waiting), default=None)
        return Decision(groups=(*groups, *begun), wake_at=wake)

    def _write(self, service: Service) -> Group:
        changed = msgspec.structs.replace(service, updated_at=self._now)
        status = service.update_status
        return Group((Update(changed),), reason=status.message if status is not None else "")

    # -- slots that were begun -----------------------------------------------------------------

    def _watch(self) -> tuple[tuple[UpdatedSlot, ...], tuple[TaskID, ...]]:
        """The slots still to be watched, and all failures so far."""
        failed = dict.fromkeys(self._progress.failed)
        kept: list[UpdatedSlot] = []
        for slot in self._progress.slots:
            task = self._make.view.task(slot.task)
            settled, failure = slot.settled_at, False
            if task is not None:
                settled, failure = self._look(slot, task)
            if failure:
                failed[slot.task] = None
            if settled is None and not failure and (task is None or not task.wanted):
                kept.extend(self._passed_on(task))
            elif settled is None or settled + self._watched_for() > self._now:
                kept.append(msgspec.structs.replace(slot, settled_at=settled))
        return tuple(kept), tuple(failed)

    def _passed_on(self, task: Task | None) -> Sequence[UpdatedSlot]:
        """The slot of a task that was moved before it ran: it is still down for this update."""
        if task is None or cell_of(task) in self._dirty:
            return ()
        heirs = [
            one
            for one in self._make.view.tasks_of_service(task.service_id)
            if one.wanted and cell_of(one) == cell_of(task)
        ]
        heir = max(heirs, key=age, default=None)
        return (UpdatedSlot(task=heir.id, begun_at=self._now),) if heir is not None else ()

    def _look(self, slot: UpdatedSlot, task: Task) -> tuple[datetime | None, bool]:
        """(when the slot settled, whether its task failed)."""
        settled = slot.settled_at
        if ended_by_itself(task):
            early = settled is None or self._now < settled + self._rule.monitor
            return settled or self._now, early
        if settled is None and task.wanted:
            if task.status.state is TaskState.RUNNING:
                return self._now, False
            if self._now >= slot.begun_at + self._rule.deadline:
                return self._now, True
        return settled, False

    def _watched_for(self) -> timedelta:
        return max(self._rule.delay, self._rule.monitor)

    def _too_many(self, failed: Sequence[TaskID]) -> bool:
        return len(failed) / max(self._progress.total, 1) > self._rule.max_failure_ratio

    def _wakes(self, slots: Sequence[UpdatedSlot], waiting: bool) -> list[datetime]:
        found: list[datetime] = []
        for slot in slots:
            if slot.settled_at is None:
                found.append(slot.begun_at + self._rule.deadline)
                continue
            found.append(slot.settled_at + self._watched_for())
            if waiting:
                found.append(slot.settled_at + self._rule.delay)
        return [instant for instant in found if instant > self._now]

    # -- slots to begin ------------------------------------------------------------------------

    def _begin_slots(
        self, watched: Sequence[UpdatedSlot]
    ) -> tuple[tuple[UpdatedSlot, ...], list[Group]]:
        busy = sum(
            1
            for slot in watched
            if slot.settled_at is None or self._now < slot.settled_at + self._rule.delay
        )
        room = len(self._dirty) if not self._rule.parallelism else self._rule.parallelism - busy
        ranked = sorted(self._dirty.items(), key=lambda entry: (_runs(entry[1]), entry[0]))
        slots = list(watched)
        groups: list[Group] = []
        for cell, tasks in ranked[: max(room, 0)]:
            created, changes = self._replace(cell, tasks)
            slots.append(UpdatedSlot(task=TaskID(created.object.id), begun_at=self._now))
            needs = (self._service.id,)
            groups.append(Group(tuple(changes), reason="update a slot", needs=needs))
        return tuple(slots), groups

    def _replace(self, cell: Cell, tasks: Sequence[Task]) -> tuple[Create, list[Change]]:
        """A new task for a slot, and what becomes of the old ones."""
        wanted = [task for task in tasks if task.wanted]
        running = [task for task in wanted if task.status.state is TaskState.RUNNING]
        kept = running[-1] if running and self._start_first(cell) else None
        changes: list[Change] = [
            self._make.stop(task, "replaced by an update")
            for task in wanted
            if task is not kept
        ]
        if kept is not None:
            created = self._make.create(cell, kept, beside=True, reason="update")
        else:
            alive = [task for task in wanted if not task.ended]
            before = self._make.followed(alive[-1]) if alive else self._make.predecessor(tasks)
            if running:
                before = running[-1]
            created = self._make.create(cell, before, reason="update")
        return created, [*changes, created]

    def _start_first(self, cell: Cell) -> bool:
        """Start-first, unless the new task could never start beside the old one."""
        if self._rule.order is not UpdateOrder.START_FIRST:
            return False
        ports = endpoint_of(self._service.spec).ports
        return not (cell[1] and any(is_host_port(p) and p.published_port for p in ports))

    # -- ends ----------------------------------------------------------------------------------

    def _complete(self) -> Service:
        state, message = UpdateState.COMPLETED, "update completed"
        if self._rollback:
            state, message = UpdateState.ROLLBACK_COMPLETED, "rollback completed"
        return self._ends(state, message, update=None)

    def _ends(self, state: UpdateState, message: str, update: UpdateProgress | None) -> Service:
        status = UpdateStatus(
            state=state,
            started_at=self._status.started_at,
            completed_at=self._now if update is None else None,
            message=message,
        )
        return msgspec.structs.replace(self._service, update=update, update_status=status)

    def _fail(self, task: TaskID) -> Service | None:
        """What a failing update becomes; None where it goes on."""
        why = f"due to failure or early termination of task {task}"
        if self._rule.failure_action is FailureAction.CONTINUE:
            return None
        if self._rollback:
            message = f"rollback paused {why}"
            return self._ends(UpdateState.ROLLBACK_PAUSED, message, self._progress)
        previous = self._service.previous_spec
        if self._rule.failure_action is FailureAction.ROLLBACK and previous is not None:
            gone = _gone(self._make.view, previous)
            if gone:
                message = f"update paused {why}; it cannot be rolled back: {gone} was removed"
                return self._ends(UpdateState.PAUSED, message, self._progress)
            message = f"update rolled back {why}"
            back = self._ends(UpdateState.ROLLBACK_STARTED, message, self._progress)
            return msgspec.structs.replace(
                back,
                spec=previous,
                spec_version=self._service.spec_version + 1,
                previous_spec=None,
                previous_spec_version=0,
            )
        return self._ends(UpdateState.PAUSED, f"update paused {why}", self._progress)


def _gone(view: View, spec: ServiceSpec) -> str:
    """What a spec refers to and is there no more, by name; no service may be brought to it."""
    for wish in spec.task_template.networks:
        network = view.network(NetworkID(wish.target))
        if network is None or network.pending_delete:
            return f"network {network.name if network is not None else wish.target}"
    container = spec.task_template.container_spec
    if container is None:
        return ""
    for secret in container.secrets:
        if view.secret(SecretID(secret.secret_id)) is None:
            return f"secret {secret.secret_name}"
    for config in container.configs:
        if view.config(ConfigID(config.config_id)) is None:
            return f"config {config.config_name}"
    return ""


def _runs(tasks: Sequence[Task]) -> bool:
    return any(task.wanted and task.status.state is TaskState.RUNNING for task in tasks)
