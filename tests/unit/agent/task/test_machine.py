"""The task machine: which step is next, and what the status is during and after it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.controller import ContainerState
from agent.task.machine import Outcome, Step, accepted, begin, settle, step
from shoal.model.objects import ContainerStatus, TaskStatus
from shoal.model.spec.service import PortConfig
from shoal.model.states import DESIRED_STATES, is_terminal
from shoal.model.states import TaskState as S
from tests.builders import at

STEPS = {
    S.READY: {
        S.ACCEPTED: Step.PREPARE,
        S.PREPARING: Step.PREPARE,
        S.READY: Step.NOTHING,
        S.STARTING: Step.START,
        S.RUNNING: Step.WAIT,
        S.FAILED: Step.NOTHING,
    },
    S.RUNNING: {
        S.ASSIGNED: Step.PREPARE,
        S.PREPARING: Step.PREPARE,
        S.READY: Step.START,
        S.STARTING: Step.START,
        S.RUNNING: Step.WAIT,
        S.COMPLETE: Step.NOTHING,
    },
    S.COMPLETE: {S.READY: Step.START, S.RUNNING: Step.WAIT, S.COMPLETE: Step.NOTHING},
    S.SHUTDOWN: {
        S.ACCEPTED: Step.STOP,
        S.RUNNING: Step.STOP,
        S.COMPLETE: Step.NOTHING,
        S.SHUTDOWN: Step.NOTHING,
        S.REJECTED: Step.NOTHING,
    },
    S.REMOVE: {S.RUNNING: Step.STOP, S.SHUTDOWN: Step.REMOVE, S.FAILED: Step.REMOVE},
}


@pytest.mark.parametrize(
    ("desired", "state", "expected"),
    [(d, s, found) for d, row in STEPS.items() for s, found in row.items()],
)
def test_steps(desired: S, state: S, expected: Step) -> None:
    assert step(desired, state) is expected


def status(state: S, message: str = "before", err: str = "") -> TaskStatus:
    return TaskStatus(state=state, timestamp=at(0), message=message, err=err)


def test_a_task_that_has_come_is_accepted() -> None:
    assert accepted(at(1)) == TaskStatus(state=S.ACCEPTED, timestamp=at(1), message="accepted")


@pytest.mark.parametrize(
    ("before", "step", "during"),
    [
        (S.ACCEPTED, Step.PREPARE, S.PREPARING),
        (S.PREPARING, Step.PREPARE, S.PREPARING),
        (S.READY, Step.START, S.STARTING),
        (S.RUNNING, Step.WAIT, S.RUNNING),
        (S.RUNNING, Step.STOP, S.RUNNING),
        (S.SHUTDOWN, Step.REMOVE, S.SHUTDOWN),
    ],
)
def test_the_status_while_a_step_is_done(before: S, step: Step, during: S) -> None:
    after = begin(status(before, err="old"), step, at(5))
    assert after.state is during
    if during is before:
        assert after == status(before, err="old"), "nothing to say"
    else:
        assert (after.timestamp, after.err) == (at(5), "")


@pytest.mark.parametrize(
    ("before", "step", "after", "message"),
    [
        (S.PREPARING, Step.PREPARE, S.READY, "prepared"),
        (S.STARTING, Step.START, S.RUNNING, "started"),
        (S.RUNNING, Step.WAIT, S.COMPLETE, "finished"),
        (S.RUNNING, Step.STOP, S.SHUTDOWN, "shutdown"),
        (S.SHUTDOWN, Step.REMOVE, S.SHUTDOWN, "before"),
    ],
)
def test_a_step_that_went_well(before: S, step: Step, after: S, message: str) -> None:
    found = settle(status(before), step, Outcome(), at(5))
    assert (found.state, found.message) == (after, message)


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (S.PREPARING, Step.PREPARE, S.REJECTED),
        (S.STARTING, Step.START, S.FAILED),
        (S.RUNNING, Step.WAIT, S.FAILED),
    ],
)
def test_a_step_that_failed_for_good(before: S, step: Step, after: S) -> None:
    found = settle(status(before), step, Outcome(error="no such image"), at(5))
    assert (found.state, found.err, found.timestamp) == (after, "no such image", at(5))


def test_what_may_succeed_later_says_why_it_waits_once() -> None:
    outcome = Outcome(error="registry is away", retryable=True)
    first = settle(status(S.PREPARING), Step.PREPARE, outcome, at(5))
    assert first.state is S.PREPARING
    assert first.message == "will be tried again: registry is away"
    assert first.err == "registry is away"
    assert settle(first, Step.PREPARE, outcome, at(9)) == first
    stop = settle(status(S.RUNNING), Step.STOP, Outcome(error="stuck"), at(5))
    assert (stop.state, stop.message) == (S.RUNNING, "will be tried again: stuck")
    over = settle(status(S.SHUTDOWN), Step.REMOVE, Outcome(error="stuck"), at(5))
    assert over == status(S.SHUTDOWN)


def test_what_is_known_of_the_container_is_kept_and_the_rest_stays() -> None:
    seen = ContainerState(
        container_id="c1", pid=7, addresses=("10.1.0.2",), ports=(("tcp", 80, 8080),)
    )
    running = settle(status(S.STARTING), Step.START, Outcome(seen=seen), at(5))
    assert running.container == ContainerStatus(container_id="c1", pid=7)
    assert running.addresses == ("10.1.0.2",)
    assert running.ports == (
        PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="host"),
    )
    ended = ContainerState(container_id="c1", exit_code=3)
    failed = settle(running, Step.WAIT, Outcome(error="exit 3", seen=ended), at(9))
    assert failed.container == ContainerStatus(container_id="c1", exit_code=3)
    assert (failed.addresses, failed.ports) == (running.addresses, running.ports)


@given(
    st.sampled_from(S), st.sampled_from(Step), st.booleans(), st.sampled_from(["", "broken"])
)
def test_no_step_lowers_a_status(state: S, done: Step, retryable: bool, error: str) -> None:
    before = status(state)
    during = begin(before, done, at(1))
    after = settle(during, done, Outcome(error=error, retryable=retryable), at(2))
    assert before.state <= during.state <= after.state
    if is_terminal(state) and done in (Step.NOTHING, Step.REMOVE):
        assert after.state is state


@given(st.sampled_from(sorted(DESIRED_STATES)))
def test_well_done_steps_bring_a_task_to_where_it_is_desired(desired: S) -> None:
    found = accepted(at(0))
    for _ in range(6):
        following = step(desired, found.state)
        if following in (Step.NOTHING, Step.REMOVE):
            break
        if following is Step.WAIT and desired is not S.COMPLETE:
            break
        found = settle(begin(found, following, at(1)), following, Outcome(), at(2))
    else:
        raise AssertionError(f"{desired} is not reached: {found}")
    assert found.state is (min(S.SHUTDOWN, desired))
