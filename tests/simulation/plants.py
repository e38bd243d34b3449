"""Deciders and other parts with a fault planted in them: the checks must object."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from typing_extensions import override

from agent.worker import Worker
from manager.dispatcher.draining import Draining
from manager.dispatcher.service import Dispatcher
from manager.dispatcher.sessions import AgentSession, Sessions
from manager.loops.loop import Row
from manager.loops.table import TABLE
from manager.orchestrator import enforcer, reaper, replicated_mode, restart, update
from manager.orchestrator.newtask import Maker
from manager.scheduler import schedule
from manager.store.barrier import Barrier
from manager.store.kv import KV
from manager.store.memory import Memory
from manager.view import NodeTotals, View
from proto import dispatcher_pb2
from proto.convert import to_message
from shoal.model.assignment import Payload, Stamp
from shoal.model.changes import Change, Decision, Delete, Group, Update
from shoal.model.ids import IdSource, NodeID, ServiceID
from shoal.model.objects import Service, Task
from shoal.model.spec.service import (
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.states import TaskState
from tests.simulation.hosts import NO_STAMP

Decide = Callable[[View, str, datetime, IdSource], Decision]


def planted(name: str, decide: Decide) -> tuple[Row, ...]:
    """The table with one decider replaced."""
    assert name in {row.name for row in TABLE}
    return tuple(
        msgspec.structs.replace(row, decide=decide) if row.name == name else row
        for row in TABLE
    )


class _Changed:
    """A view with something different in it."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


class _OtherSpec(_Changed):
    """Services have another spec than they have."""

    def __init__(self, view: View, change: Callable[[ServiceSpec], ServiceSpec]) -> None:
        super().__init__(view)
        self._change = change

    def service(self, identity: ServiceID) -> Service | None:
        found = self._view.service(identity)
        if found is None:
            return None
        return msgspec.structs.replace(found, spec=self._change(found.spec))


class _NoHostPorts(_Changed):
    """No host port is taken anywhere."""

    def totals(self, node: NodeID) -> NodeTotals:
        return msgspec.structs.replace(self._view.totals(node), host_ports={})


def _with_true_specs(view: View, decision: Decision) -> Decision:
    """What a decider that was lied to wants to write, with the specs that there are."""

    def true(change: Change) -> Change:
        thing = change.object
        found = view.service(ServiceID(thing.id))
        if isinstance(change, Update) and isinstance(thing, Service) and found is not None:
            return Update(msgspec.structs.replace(thing, spec=found.spec))
        if isinstance(thing, Task) and (owner := view.service(thing.service_id)) is not None:
            return type(change)(msgspec.structs.replace(thing, service_spec=owner.spec))
        return change

    groups = tuple(
        Group(tuple(true(change) for change in group.changes), group.reason)
        for group in decision.groups
    )
    return msgspec.structs.replace(decision, groups=groups)


def update_all_at_once(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Ignores the parallelism of updates."""

    def hasty(spec: ServiceSpec) -> ServiceSpec:
        config = spec.update_config or UpdateConfig()
        return msgspec.structs.replace(
            spec, update_config=msgspec.structs.replace(config, parallelism=0)
        )

    lied = _OtherSpec(view, hasty)
    return _with_true_specs(view, update.decide(lied, key, now, ids))


def schedule_on_taken_ports(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Ignores what host ports are taken."""
    return schedule.decide(_NoHostPorts(view), key, now, ids)


def start_beside(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Does not wait for the task before, nor for the restart delay."""
    return _start(view, key, now, ids, lambda task: True)


def start_without_delay(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Does not wait for the restart delay."""

    def alone(task: Task) -> bool:
        before = view.task(task.replaces) if task.replaces is not None else None
        return before is None or before.ended

    return _start(view, key, now, ids, alone)


def _start(
    view: View, key: str, now: datetime, ids: IdSource, may: Callable[[Task], bool]
) -> Decision:
    held = [
        task
        for task in view.tasks_of_service(ServiceID(key))
        if task.desired_state is TaskState.READY and not task.ended and may(task)
    ]
    eager = tuple(
        Group((Update(msgspec.structs.replace(task, desired_state=TaskState.RUNNING)),))
        for task in held
    )
    return Decision(groups=eager) if eager else restart.decide(view, key, now, ids)


def reap_what_lives(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Deletes tasks that are to stop without waiting for their end."""
    doomed = tuple(
        Group((Delete(task),), "not wanted")
        for task in view.tasks_of_service(ServiceID(key))
        if not task.wanted and not task.ended
    )
    return Decision(groups=doomed) if doomed else reaper.decide(view, key, now, ids)


def one_too_many(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Counts replicas wrongly."""

    def more(spec: ServiceSpec) -> ServiceSpec:
        replicated = spec.mode.replicated
        if replicated is None:
            return spec
        mode = ServiceMode(replicated=Replicated(replicas=(replicated.replicas or 0) + 1))
        return msgspec.structs.replace(spec, mode=mode)

    lied = _OtherSpec(view, more)
    return _with_true_specs(view, replicated_mode.decide(lied, key, now, ids))


def stop_what_fits(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Takes a running task from each node that changes."""
    for task in view.tasks_of_node(NodeID(key)):
        service = view.service(task.service_id)
        if task.wanted and task.status.state is TaskState.RUNNING and service is not None:
            stop = Maker(view, service, now, ids).stop(task, "out of spite")
            return Decision(groups=(Group((stop,)),))
    return enforcer.decide(view, key, now, ids)


def wait_in_silence(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Never says why a task waits."""
    decision = schedule.decide(view, key, now, ids)
    groups = tuple(
        group
        for group in decision.groups
        if all(
            isinstance(change.object, Task)
            and change.object.status.state is not TaskState.PENDING
            for change in group.changes
        )
    )
    return msgspec.structs.replace(decision, groups=groups)


POISONED = "s0"
"""The name of the service on which `raising` deciders raise."""


def raising(name: str, raised: list[str]) -> tuple[Row, ...]:
    """The table with a decider that raises for one service, and decides well for all others.

    The keys on which it did are put into `raised`.
    """
    row = next(row for row in TABLE if row.name == name)

    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        service = view.service(ServiceID(key))
        if service is not None and service.spec.name == POISONED:
            raised.append(key)
            raise ZeroDivisionError("poisoned")
        return row.decide(view, key, now, ids)

    return planted(name, decide)


def _with_jobs(row: str, change: Callable[[ReplicatedJob], ReplicatedJob]) -> Decide:
    decide = next(one.decide for one in TABLE if one.name == row)

    def other(spec: ServiceSpec) -> ServiceSpec:
        job = spec.mode.replicated_job
        if job is None:
            return spec
        return msgspec.structs.replace(spec, mode=ServiceMode(replicated_job=change(job)))

    def lied_to(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        return _with_true_specs(view, decide(_OtherSpec(view, other), key, now, ids))

    return lied_to


def _more_at_once(job: ReplicatedJob) -> ReplicatedJob:
    return ReplicatedJob(
        max_concurrent=(job.max_concurrent or 1) + 1, total_completions=job.total_completions
    )


def _more_completions(job: ReplicatedJob) -> ReplicatedJob:
    return ReplicatedJob(
        max_concurrent=job.max_concurrent, total_completions=(job.total_completions or 1) + 1
    )


too_many_at_once = _with_jobs("jobs", _more_at_once)
"""Runs one task of a job more at a time than it may."""

too_many_completions = _with_jobs("jobs", _more_completions)
"""Runs a job once more than was asked for."""


# -- parts of managers and agents


class TakesAnyStamp(Worker):
    """An agent that does not remember what it has applied."""

    @property
    @override
    def stamp(self) -> Stamp:
        return NO_STAMP


class KeepsItsNetwork(Worker):
    """An agent that leaves its cluster and its network behind."""

    @override
    async def release(self) -> None:
        return


class _NeverWaits(_Changed):
    """A memory that is never waited for."""

    async def reached(self, revision: int) -> None:
        await asyncio.sleep(0.05)


class _NoBarrier(Barrier):
    @override
    async def reached(self) -> int:
        return 0


def hasty_sessions(kv: KV, memory: Memory, barrier: Barrier, *more: Any) -> Sessions:
    """Registers agents at a manager that may not know yet what they have applied."""
    return Sessions(kv, _NeverWaits(memory), _NoBarrier(kv, memory.reached), *more)  # type: ignore[arg-type]


class DrainsAtOnce(Draining):
    """Says of each task that is to stop that nobody asks it any more."""

    @override
    def drained(self, task: Task) -> bool:
        return not task.wanted


class TellsAllSecrets(Dispatcher):
    """Tells every node of every secret."""

    @override
    def _news(self, session: AgentSession) -> list[dispatcher_pb2.ManagerMessage]:
        news = super()._news(session)
        for message in news:
            if message.WhichOneof("said") == "assignments":
                difference = message.assignments.difference
                for secret in self._memory.secrets():
                    to_message(Payload(id=secret.id, data=b"-"), difference.secrets.add())
        return news
