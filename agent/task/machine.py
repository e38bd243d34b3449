"""What to do next with a task, and what its status is after that. Pure.

Swarm's states and rules (swarmkit `agent/exec/controller.go`, `Do`) as two tables. The machine
knows no containers, the controller knows no desired states; `agent.task.manager` stands between
them. It keeps one invariant: no status it returns is lower than the one it was given.

    accepted -> preparing -> ready -> starting -> running -> complete
                 PREPARE             START         WAIT
       before STARTING a failure is REJECTED, from there on FAILED; STOP ends in SHUTDOWN;
       what may succeed later leaves the state alone and says why it waits.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from agent.runtime.controller import ContainerState
from shoal.model.objects import ContainerStatus, TaskStatus
from shoal.model.spec.service import PortConfig
from shoal.model.states import TaskState, is_terminal


class Step(StrEnum):
    """What the task manager is to do."""

    PREPARE = "prepare"
    START = "start"
    WAIT = "wait"
    STOP = "stop"
    REMOVE = "remove"
    NOTHING = "nothing"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended: well, if `error` is empty. `seen` is what is known of the container."""

    error: str = ""
    retryable: bool = False
    seen: ContainerState = ContainerState()


class _Row(msgspec.Struct, frozen=True):
    """From a state on (up to the next row's) this is the step."""

    since: TaskState
    step: Step


_FORWARD = (
    _Row(TaskState.NEW, Step.PREPARE),
    _Row(TaskState.READY, Step.START),
    _Row(TaskState.RUNNING, Step.WAIT),
    _Row(TaskState.COMPLETE, Step.NOTHING),
)

_STEPS: Mapping[TaskState, tuple[_Row, ...]] = {
    TaskState.READY: (
        _Row(TaskState.NEW, Step.PREPARE),
        _Row(TaskState.READY, Step.NOTHING),
        _Row(TaskState.STARTING, Step.START),  # was told RUNNING once; nothing goes back
        _Row(TaskState.RUNNING, Step.WAIT),
        _Row(TaskState.COMPLETE, Step.NOTHING),
    ),
    TaskState.RUNNING: _FORWARD,
    TaskState.COMPLETE: _FORWARD,
    TaskState.SHUTDOWN: (
        _Row(TaskState.NEW, Step.STOP),
        _Row(TaskState.COMPLETE, Step.NOTHING),
    ),
    TaskState.REMOVE: (
        _Row(TaskState.NEW, Step.STOP),
        _Row(TaskState.COMPLETE, Step.REMOVE),
    ),
}


class _Effect(msgspec.Struct, frozen=True):
    """What a step does to the status; None leaves the state alone, "" the message."""

    during: TaskState | None = None
    doing: str = ""
    after: TaskState | None = None
    done: str = ""
    failed: TaskState | None = None


_EFFECTS: Mapping[Step, _Effect] = {
    Step.PREPARE: _Effect(
        TaskState.PREPARING, "preparing", TaskState.READY, "prepared", TaskState.REJECTED
    ),
    Step.START: _Effect(
        TaskState.STARTING, "starting", TaskState.RUNNING, "started", TaskState.FAILED
    ),
    Step.WAIT: _Effect(None, "", TaskState.COMPLETE, "finished", TaskState.FAILED),
    Step.STOP: _Effect(None, "", TaskState.SHUTDOWN, "shutdown", None),
    Step.REMOVE: _Effect(),
    Step.NOTHING: _Effect(),
}


def accepted(now: datetime) -> TaskStatus:
    """The status of a task that has just come."""
    return TaskStatus(state=TaskState.ACCEPTED, timestamp=now, message="accepted")


def step(desired: TaskState, state: TaskState) -> Step:
    """What to do with a task that is in `state` and shall come to `desired`."""
    return next(row.step for row in reversed(_STEPS[desired]) if state >= row.since)


def begin(status: TaskStatus, step: Step, now: datetime) -> TaskStatus:
    """The status while a step is done."""
    effect = _EFFECTS[step]
    if effect.during is None or status.state >= effect.during:
        return status
    return replace(status, state=effect.during, timestamp=now, message=effect.doing, err="")


def settle(status: TaskStatus, step: Step, outcome: Outcome, now: datetime) -> TaskStatus:
    """The status after a step."""
    effect = _EFFECTS[step]
    seen = _facts(status, outcome.seen)
    state = effect.after if not outcome.error else effect.failed
    if outcome.error and (outcome.retryable or state is None):
        return _waiting(seen, outcome, now)
    if state is None or seen.state >= state:
        return seen
    if outcome.error:
        return replace(seen, state=state, timestamp=now, err=outcome.error)
    return replace(seen, state=state, timestamp=now, message=effect.done, err="")


def _waiting(status: TaskStatus, outcome: Outcome, now: datetime) -> TaskStatus:
    message = f"will be tried again: {outcome.error}"
    if status.message == message or is_terminal(status.state):
        return status  # the same trouble again is no news
    # the error too: that is what `docker service ps` shows
    return replace(status, timestamp=now, message=message, err=outcome.error)


def _facts(status: TaskStatus, seen: ContainerState) -> TaskStatus:
    """The status with what is known of the container; what is unknown now stays as it was."""
    if not seen.container_id:
        return status
    return replace(
        status,
        container=ContainerStatus(
            container_id=seen.container_id, pid=seen.pid, exit_code=seen.exit_code or 0
        ),
        addresses=seen.addresses or status.addresses,
        ports=tuple(
            PortConfig(
                protocol=protocol,
                target_port=target,
                published_port=published,
                publish_mode="host",
            )
            for protocol, target, published in seen.ports
        )
        or status.ports,
    )
