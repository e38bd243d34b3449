"""Ready replicas: not fewer by our own doing than the update allows, nor more than asked.

Every stop of a task that runs must have a reason that can be seen from outside: its service or
slot is wanted no more, its node cannot keep it, another task of its slot runs, or an update, of
which no more slots may be down at a time than its parallelism. Held tasks start no earlier than
they may.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from manager.orchestrator.slots import Cell, age, cell_of, ended_by_itself
from shoal.model.changes import Event
from shoal.model.constraints import first_unmet, parse_all
from shoal.model.defaults import (
    Mode,
    UpdateRule,
    is_host_port,
    is_job,
    mode_of,
    replicas_of,
    restart_rule,
    update_rule,
)
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import Service, Task
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import TaskState, UpdateOrder
from tests.simulation.clockwork import BEGIN
from tests.simulation.truth import STALE, Held, Revision, Truth

SLACK = 1e-3

Place = tuple[ServiceID, Cell]


class _Down(Struct):
    """A slot that an update to a version has taken down: since when, and when it settled."""

    version: int
    since: float
    settled: float | None = None


class Readiness:
    """Checks each revision."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._down: dict[Place, _Down] = {}
        self._began: dict[TaskID, float] = {}

    def check(self, revision: Revision) -> None:
        tasks = [event for event in revision.events if isinstance(event.object, Task)]
        if not tasks:
            return
        self._settle(tasks)
        self._stops(revision)
        self._note_running(tasks)
        for event in tasks:
            before, after = event.before, event.after
            if isinstance(before, Task) and isinstance(after, Task):
                if (
                    before.desired_state is TaskState.READY < after.desired_state
                    and after.wanted
                ):
                    self._released(after)
            elif isinstance(after, Task):
                if after.desired_state is not TaskState.READY:
                    self._released(after)
                self._made(after, revision)

    def _note_running(self, events: Iterable[Event]) -> None:
        for event in events:
            task = event.object
            assert isinstance(task, Task)
            if event.after is None:
                self._began.pop(task.id, None)
            elif task.status.state is TaskState.RUNNING:
                self._began.setdefault(task.id, self._truth.now())

    # -- stops

    def _stops(self, revision: Revision) -> None:
        """Of a slot's tasks that are stopped in one go, the last that ran is the slot's."""
        last: dict[Place, Task] = {}
        for before, _ in revision.stops():
            place = (before.service_id, cell_of(before))
            last[place] = max(last.get(place, before), before, key=age)
        for task in last.values():
            self._stopped(task)

    def _stopped(self, task: Task) -> None:
        service = self._truth.view.service(task.service_id)
        if service is None or is_job(service.spec) or self._truth.unfit_lately(task.node_id):
            return
        beside = [one for one in self._of_cell(task) if one.wanted and one.id != task.id]
        if any(one.status.state is TaskState.RUNNING for one in beside):
            return
        lately = self._truth.lately(service)
        if self._surplus(service, task, lately) or self._misfit(task, lately):
            return
        name = self._truth.name(task)
        if all(_same(held.spec, task.service_spec) for held in lately):
            self._truth.object_to(f"{name} was stopped for no reason that could be seen")
            return
        rules = [update_rule(held.spec, rollback=held.back) for held in lately]
        known_to_run = self._began.get(task.id, 0.0) < self._truth.now() - STALE
        if known_to_run and not any(
            _stops_first(rule, held, task) for rule, held in zip(rules, lately, strict=True)
        ):
            self._truth.object_to(f"{name} was stopped before its successor ran (start-first)")
        place = (task.service_id, cell_of(task))
        self._down[place] = _Down(service.spec_version, self._truth.now())
        busy = [
            (key[1], one)
            for key, one in self._down.items()
            if key[0] == service.id
            and not (key[1][1] and self._truth.unfit_lately(NodeID(key[1][1])))
            and self._busy(one, service, rules)
        ]
        limit = max((rule.parallelism or 1 << 30) for rule in rules)
        if len(busy) > limit:
            self._truth.object_to(
                f"{len(busy)} slots of {service.spec.name} are down for an update that allows"
                f" {limit}: {busy}"
            )

    def _busy(self, down: _Down, service: Service, rules: Sequence[UpdateRule]) -> bool:
        now = self._truth.now()
        deadline = min(rule.deadline for rule in rules).total_seconds()
        if now >= down.since + deadline - SLACK:
            return False
        delay = min(rule.delay for rule in rules).total_seconds()
        if down.settled is None:
            return True
        return down.version == service.spec_version and now < down.settled + delay - SLACK

    def _settle(self, events: Iterable[Event]) -> None:
        """A slot is settled once its new task runs, has ended or is wanted no more."""
        for event in events:
            task = event.object
            assert isinstance(task, Task)
            down = self._down.get((task.service_id, cell_of(task)))
            if down is None or down.settled is not None:
                continue
            wanted = [one for one in self._of_cell(task) if one.wanted]
            if not wanted or any(one.status.state >= TaskState.RUNNING for one in wanted):
                down.settled = self._truth.now()

    def _of_cell(self, task: Task) -> list[Task]:
        cell = cell_of(task)
        return [
            one
            for one in self._truth.view.tasks_of_service(task.service_id)
            if cell_of(one) == cell
        ]

    def _surplus(self, service: Service, task: Task, lately: Sequence[Held]) -> bool:
        """Whether its slot is more than some spec of late asks for."""
        if mode_of(service.spec) is not Mode.REPLICATED:
            return False
        occupied = {
            cell_of(one) for one in self._truth.view.tasks_of_service(service.id) if one.wanted
        }
        occupied.add(cell_of(task))
        return len(occupied) > min(replicas_of(held.spec) for held in lately)

    def _misfit(self, task: Task, lately: Sequence[Held]) -> bool:
        node = self._truth.view.node(task.node_id) if task.node_id is not None else None
        if node is None:
            return True
        for spec in (task.service_spec, *(held.spec for held in lately)):
            placement = spec.task_template.placement
            if placement is not None and first_unmet(parse_all(placement.constraints), node):
                return True
        return False

    # -- starts

    def _released(self, task: Task) -> None:
        """A task may start: not before its delay is over."""
        due = task.start_after
        if due is not None and self._instant() < due - timedelta(seconds=SLACK):
            self._truth.object_to(f"{self._truth.name(task)} was let start before its delay")

    def _made(self, task: Task, revision: Revision) -> None:
        service = self._truth.view.service(task.service_id)
        if service is None:
            return
        lately = self._truth.lately(service)
        if mode_of(service.spec) is Mode.REPLICATED:
            wanted = [t for t in self._truth.view.tasks_of_service(service.id) if t.wanted]
            slots = len({cell_of(one) for one in wanted})
            most = max(replicas_of(held.spec) for held in lately)
            if slots > most:
                self._truth.object_to(
                    f"{service.spec.name} has {slots} slots for {most} replicas"
                )
        mine = [one for one in self._of_cell(task) if one.wanted and not one.ended]
        starting = [
            one
            for one in mine
            if not self._truth.unfit_lately(one.node_id) or one.node_id is None
        ]
        if len(starting) > 2:
            self._truth.object_to(
                f"{len(starting)} tasks are wanted in one slot of {service.spec.name}"
            )
        self._restarted(task, revision)

    def _restarted(self, task: Task, revision: Revision) -> None:
        """The successor of a task that ended by itself waits as the policy says.

        But for a slot that its node gives up at the same moment.
        """
        gives_up = [event.before for event in revision.events if isinstance(event.before, Task)]
        if any(
            cell_of(one) == cell_of(task)
            and one.service_id == task.service_id
            and not one.ended
            and self._truth.unfit_lately(one.node_id)
            for one in gives_up
        ):
            return
        for event in revision.events:
            before, after = event.before, event.after
            if (
                isinstance(before, Task)
                and isinstance(after, Task)
                and before.wanted
                and not after.wanted
                and ended_by_itself(before)
                and before.spec_version == task.spec_version
                and before.service_id == task.service_id
                and cell_of(before) == cell_of(task)
                and not self._truth.unfit_lately(before.node_id)
            ):
                held_until = before.start_after
                if held_until is not None and self._instant() < held_until:
                    self._truth.object_to(f"{self._truth.name(before)} was followed too soon")
                delay = restart_rule(task.service_spec).delay
                start = task.start_after or task.created_at
                if delay and start < task.created_at + delay:
                    self._truth.object_to(
                        f"{self._truth.name(task)} does not wait to be restarted"
                    )

    def _instant(self) -> datetime:
        return BEGIN + timedelta(seconds=self._truth.now())


def _same(one: ServiceSpec, other: ServiceSpec) -> bool:
    return one.task_template == other.task_template and one.endpoint_spec == other.endpoint_spec


def _stops_first(rule: UpdateRule, held: Held, task: Task) -> bool:
    if rule.order is not UpdateOrder.START_FIRST:
        return True
    endpoint = held.spec.endpoint_spec
    ports = endpoint.ports if endpoint is not None else ()
    return not task.slot and any(is_host_port(port) for port in ports)
