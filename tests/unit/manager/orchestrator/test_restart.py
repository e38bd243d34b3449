"""One slot kept alive: restarts, moves, pairs of start-first, and held tasks."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from msgspec.structs import replace

from manager.orchestrator import restart
from manager.orchestrator.newtask import Maker
from manager.orchestrator.slots import Cell, by_slot
from shoal.model.changes import NOTHING, Decision
from shoal.model.ids import ServiceID, TaskID
from shoal.model.objects import JobStatus, Node, Service, Task
from shoal.model.spec.service import (
    Global,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.spec.task import RestartPolicy
from shoal.model.states import NodeState
from shoal.model.states import TaskState as S
from tests.builders import (
    SECOND,
    Ids,
    at,
    created,
    make_node,
    make_service,
    make_spec,
    make_task,
    tables,
    updated,
)

START_FIRST = UpdateConfig(parallelism=1, order="start-first")


def policy(
    condition: str = "any", delay: float = 5, attempts: int = 0, window: float = 0
) -> RestartPolicy:
    return RestartPolicy(
        condition=condition,
        delay=int(delay * SECOND),
        max_attempts=attempts,
        window=int(window * SECOND),
    )


def serviced(restart: RestartPolicy | None = None, **more: object) -> Service:
    return make_service(spec=make_spec(restart=restart, **more))  # type: ignore[arg-type]


def heal(
    service: Service, given: Sequence[Task], *nodes: Node, cell: Cell = (1, "")
) -> Decision:
    """What is decided of a slot at 100 s; its tasks are of the service's spec."""
    tasks = [replace(task, service_spec=service.spec) for task in given]
    view = tables(service, *tasks, *(nodes or (make_node("n1"), make_node("n2"))))
    slot = by_slot(tasks)[cell]
    make = Maker(view, service, at(100), Ids())
    return Decision(groups=tuple(restart.heal(make, cell, slot)))


def desires(decision: Decision) -> dict[str, S]:
    return {name: task.desired_state for name, task in updated(decision).items()}


# -- the end of a task -------------------------------------------------------------------------


def test_a_slot_that_is_well_needs_nothing() -> None:
    assert heal(serviced(), [make_task()]) == NOTHING
    assert heal(serviced(), [make_task(node=None, state=S.PENDING)]) == NOTHING


def test_a_dead_task_is_followed_after_the_delay() -> None:
    dead = make_task(state=S.FAILED, err="exit code 3")
    decision = heal(serviced(policy(delay=7)), [dead])
    assert desires(decision) == {"t1": S.SHUTDOWN}
    (new,) = created(decision)
    assert (new.slot, new.desired_state, new.start_after) == (1, S.READY, at(107))
    assert new.replaces == "t1"
    assert new.node_id is None
    assert new.reason == "replaces task t1, which is failed: exit code 3"
    assert len(decision.groups) == 1, "the old and the new task of a slot are one"


def test_without_a_delay_it_is_to_run_at_once() -> None:
    (new,) = created(heal(serviced(policy(delay=0)), [make_task(state=S.COMPLETE)]))
    assert (new.desired_state, new.start_after) == (S.RUNNING, None)
    assert new.reason == "replaces task t1, which is complete"


def test_a_dead_task_of_a_drained_node_is_followed_at_once() -> None:
    decision = heal(
        serviced(policy(delay=7)),
        [make_task(state=S.FAILED)],
        make_node("n1", availability="drain"),
    )
    (new,) = created(decision)
    assert (new.desired_state, new.start_after) == (S.RUNNING, None)


@pytest.mark.parametrize(
    ("condition", "state", "followed"),
    [
        ("any", S.COMPLETE, True),
        ("any", S.FAILED, True),
        ("on-failure", S.COMPLETE, False),
        ("on-failure", S.FAILED, True),
        ("on-failure", S.REJECTED, True),
        ("none", S.FAILED, False),
        ("none", S.COMPLETE, False),
    ],
)
def test_conditions(condition: str, state: S, followed: bool) -> None:
    decision = heal(serviced(policy(condition)), [make_task(state=state)])
    assert bool(created(decision)) is followed
    assert desires(decision) == {"t1": S.SHUTDOWN}


def ended(count: int, service: Service, every: float = 10) -> list[Task]:
    """Tasks of one slot that failed one after the other; the last is still wanted."""
    tasks = [
        make_task(
            f"t{n}",
            service,
            state=S.FAILED,
            created=n * every,
            since=n * every + 1,
            desired_state=S.SHUTDOWN,
        )
        for n in range(count)
    ]
    return [*tasks[:-1], replace(tasks[-1], desired_state=S.RUNNING)]


@pytest.mark.parametrize(("ends", "followed"), [(1, True), (3, True), (4, False), (5, False)])
def test_max_attempts_are_restarts_of_the_slot(ends: int, followed: bool) -> None:
    service = serviced(policy(attempts=3))
    assert bool(created(heal(service, ended(ends, service)))) is followed


def test_attempts_before_the_window_do_not_count() -> None:
    service = serviced(policy(attempts=2, window=15))
    assert created(heal(service, ended(6, service)))
    narrow = serviced(policy(attempts=2, window=25))
    assert not created(heal(narrow, ended(6, narrow)))


def test_attempts_are_of_one_version_and_only_ends_by_themselves() -> None:
    service = serviced(policy(attempts=1))
    tasks = ended(2, service)
    assert not created(heal(service, tasks))
    other = [replace(tasks[0], spec_version=0), tasks[1]]
    assert created(heal(service, other))
    stopped = replace(tasks[0], status=replace(tasks[0].status, state=S.SHUTDOWN))
    assert created(heal(service, [stopped, tasks[1]]))


# -- nodes that go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([make_node("n1", state=NodeState.DOWN)], "node host-n1 is down"),
        ([make_node("n1", availability="drain")], "node host-n1 is drained"),
        ([make_node("n2")], "node n1 was removed"),
    ],
)
@pytest.mark.parametrize("condition", ["any", "on-failure", "none"])
def test_a_task_moves_at_once_whatever_the_policy(
    nodes: list[Node], why: str, condition: str
) -> None:
    """The policy speaks of ends by themselves; this one did not end, its node went."""
    decision = heal(serviced(policy(condition, delay=30)), [make_task()], *nodes)
    assert desires(decision) == {"t1": S.SHUTDOWN}
    (new,) = created(decision)
    assert new.start_after is None
    assert new.reason == f"replaces task t1: {why}"
    assert updated(decision)["t1"].reason == why


def test_a_task_orphaned_with_its_node_moves_at_once_too() -> None:
    orphan = make_task(state=S.ORPHANED, err="its node was removed")
    (new,) = created(heal(serviced(policy("none", delay=30)), [orphan], make_node("n2")))
    assert (new.desired_state, new.start_after) == (S.RUNNING, None)
    assert new.reason == "replaces task t1: node n1 was removed"


def test_what_runs_on_a_drained_node_is_waited_for_and_on_a_lost_one_not() -> None:
    drained = heal(serviced(), [make_task()], make_node("n1", availability="drain"))
    assert created(drained)[0].desired_state is S.READY
    lost = heal(serviced(), [make_task()], make_node("n1", state=NodeState.DOWN))
    assert created(lost)[0].desired_state is S.RUNNING
    waiting = make_task(
        state=S.ASSIGNED, node="n1", desired_state=S.READY, replaces=TaskID("t0")
    )
    before = make_task("t0", desired_state=S.SHUTDOWN, node="n2")
    again = heal(
        serviced(), [before, waiting], make_node("n1", state=NodeState.DOWN), make_node("n2")
    )
    (new,) = created(again)
    assert new.replaces == "t0", "what the one before waited for still runs"
    assert new.desired_state is S.READY


def test_what_a_lost_node_has_not_taken_yet_moves_before_the_node_is_down() -> None:
    lost = make_node("n1", session=False, lost_since=at(0))
    waits = make_task(state=S.ASSIGNED, node="n1")
    (new,) = created(heal(serviced(), [waits], lost))
    assert new.desired_state is S.RUNNING, "nobody is left who could stop the old one"
    assert new.reason.endswith("node host-n1 lost its session before it took the task")
    taken = make_task(state=S.PREPARING, node="n1")
    assert heal(serviced(), [taken], lost) == NOTHING
    assert heal(serviced(), [waits], make_node("n1")) == NOTHING


def test_what_runs_is_waited_for_and_not_the_lost_one_that_it_replaced() -> None:
    lost = make_task("t0", desired_state=S.SHUTDOWN, node="n3")
    runs = make_task(node="n1", replaces=TaskID("t0"))
    drained = make_node("n1", availability="drain")
    (new,) = created(
        heal(serviced(), [lost, runs], drained, make_node("n3", state=NodeState.DOWN))
    )
    assert new.replaces == "t1"
    assert new.desired_state is S.READY


def test_a_task_without_a_node_description_is_called_by_its_id() -> None:
    node = make_node("n1", availability="drain", description=None)
    assert updated(heal(serviced(), [make_task()], node))["t1"].reason == "node n1 is drained"


def test_a_global_services_task_goes_without_a_successor() -> None:
    service = serviced(mode=ServiceMode(global_=Global()))
    task = make_task(service=service, slot=0)
    decision = heal(service, [task], make_node("n1", availability="drain"), cell=(0, "n1"))
    assert not created(decision)
    assert desires(decision) == {"t1": S.SHUTDOWN}


# -- start-first: the old one serves until the new one does ------------------------------------

DRAINED = (make_node("n1", availability="drain"), make_node("n2"))


def test_a_drained_task_serves_until_its_successor_runs() -> None:
    service = serviced(update=START_FIRST)
    old = make_task()
    decision = heal(service, [old], *DRAINED)
    assert desires(decision) == {}
    (new,) = created(decision)
    assert (new.replaces, new.desired_state) == ("t1", S.RUNNING)
    starting = make_task(
        "t2", service, node="n2", state=S.STARTING, created=1, replaces=TaskID("t1")
    )
    assert heal(service, [old, starting], *DRAINED) == NOTHING
    running = replace(starting, status=replace(old.status))
    assert desires(heal(service, [old, running], *DRAINED)) == {"t1": S.SHUTDOWN}


def test_of_two_that_leave_the_one_that_serves_stays() -> None:
    service = serviced(update=START_FIRST)
    drained = [make_node(n, availability="drain") for n in ("n1", "n2")]
    starting = make_task("t2", node="n2", state=S.STARTING, created=1, replaces=TaskID("t1"))
    decision = heal(service, [make_task(), starting], *drained)
    assert desires(decision) == {"t2": S.SHUTDOWN}
    (new,) = created(decision)
    assert (new.replaces, new.start_after) == ("t1", None)


def test_one_that_does_not_run_or_whose_node_is_lost_is_not_kept() -> None:
    service = serviced(update=START_FIRST)
    starting = heal(service, [make_task(state=S.STARTING)], *DRAINED)
    assert desires(starting) == {"t1": S.SHUTDOWN}
    lost = heal(service, [make_task()], make_node("n1", state=NodeState.DOWN))
    assert desires(lost) == {"t1": S.SHUTDOWN}


def test_a_successor_that_dies_beside_a_drained_task_is_followed_by_the_policy() -> None:
    """Not at once, for ever, as fast as a container can fail."""
    service = serviced(policy(delay=7, attempts=2), update=START_FIRST)
    old = make_task()
    dead = make_task(
        "t2", service, node="n2", state=S.FAILED, created=1, replaces=TaskID("t1"), since=2
    )
    decision = heal(service, [old, dead], *DRAINED)
    assert desires(decision) == {"t2": S.SHUTDOWN}
    (new,) = created(decision)
    assert (new.replaces, new.start_after) == ("t1", at(107))
    earlier = [
        replace(dead, id=TaskID(f"d{n}"), desired_state=S.SHUTDOWN, created_at=at(0.1 * n))
        for n in (1, 2)
    ]
    spent = heal(service, [old, *earlier, dead], *DRAINED)
    assert desires(spent) == {"t2": S.SHUTDOWN}
    assert not created(spent), "attempts are used up: the old one serves on"
    rest = replace(dead, desired_state=S.SHUTDOWN)
    assert heal(service, [old, *earlier, rest], *DRAINED) == NOTHING


def test_a_successor_that_dies_beside_a_task_that_stays() -> None:
    service = serviced(policy(delay=7), update=START_FIRST)
    old = make_task()
    dead = make_task("t2", service, state=S.FAILED, created=1, replaces=TaskID("t1"))
    decision = heal(service, [old, dead])
    assert desires(decision) == {"t2": S.SHUTDOWN}
    (new,) = created(decision)
    assert (new.replaces, new.start_after) == ("t1", at(107))
    never = serviced(policy("none"), update=START_FIRST)
    dead = make_task("t2", never, state=S.FAILED, created=1, replaces=TaskID("t1"))
    assert not created(heal(never, [old, dead]))
    alone = replace(dead, replaces=None)
    assert not created(heal(service, [old, alone])), "it was to replace nothing"


def test_a_dead_task_beside_two_living_ones_is_not_followed() -> None:
    service = serviced(update=START_FIRST)
    old = make_task()
    dead = make_task("t2", service, state=S.FAILED, created=1, replaces=TaskID("t1"))
    rival = make_task("t3", service, state=S.STARTING, created=2, replaces=TaskID("t1"))
    decision = heal(service, [old, dead, rival])
    assert desires(decision) == {"t2": S.SHUTDOWN}
    assert not created(decision)


def test_of_two_that_start_the_newer_stays_and_one_that_serves_is_never_stopped() -> None:
    service = serviced()
    older = make_task("t1", state=S.STARTING)
    newer = make_task("t2", state=S.STARTING, created=1)
    assert desires(heal(service, [older, newer])) == {"t1": S.SHUTDOWN}
    serving = make_task("t1")
    assert heal(service, [serving, newer]) == NOTHING


# -- held tasks --------------------------------------------------------------------------------


def start(*things: Task | Node | Service, now: float = 10) -> Decision:
    return restart.decide(tables(*things), ServiceID("s1"), at(now), Ids())


def held(**more: object) -> Task:
    fields: dict[str, object] = {"desired_state": S.READY, "state": S.READY, **more}
    return make_task("t2", created=5, **fields)  # type: ignore[arg-type]


def test_a_held_task_starts_once_its_delay_is_over() -> None:
    task = held(start_after=at(12))
    assert start(task) == Decision(wake_at=at(12))
    assert desires(start(task, now=12)) == {"t2": S.RUNNING}
    assert start(make_task()) == NOTHING


def test_what_ends_before_its_time_to_start_is_followed_after_it() -> None:
    """An image that is nowhere to be had must not be looked for without a pause."""
    task = held(start_after=at(112), state=S.REJECTED)
    assert (
        heal(
            serviced(policy(delay=7)),
            [make_task(state=S.FAILED, desired_state=S.SHUTDOWN), task],
        )
        == NOTHING
    )
    assert start(task) == Decision(wake_at=at(112))
    due = replace(task, desired_state=S.RUNNING)
    (new,) = created(heal(serviced(policy(delay=7)), [due]))
    assert new.start_after == at(107)


def test_a_held_task_waits_for_the_one_before_it_but_not_for_ever() -> None:
    node = make_node("n1")
    before = make_task("t1", desired_state=S.SHUTDOWN)
    task = held(replaces=TaskID("t1"))
    assert start(node, before, task).wake_at == at(5) + restart.STOP_WAIT
    assert desires(start(node, before, task, now=65)) == {"t2": S.RUNNING}
    over = replace(before, status=replace(before.status, state=S.SHUTDOWN))
    assert desires(start(node, over, task)) == {"t2": S.RUNNING}
    lost = make_node("n1", state=NodeState.DOWN)
    assert desires(start(lost, before, task)) == {"t2": S.RUNNING}
    assert desires(start(before, task)) == {"t2": S.RUNNING}
    assert desires(start(node, task)) == {"t2": S.RUNNING}
    assert start(node, before, replace(task, start_after=at(99))).wake_at == at(99)


def test_of_several_held_tasks_the_earliest_wakes() -> None:
    first, second = held(start_after=at(20)), held(start_after=at(15))
    decision = start(first, replace(second, id=TaskID("t3")))
    assert decision == Decision(wake_at=at(15))
    mixed = start(first, replace(second, id=TaskID("t3")), now=15)
    assert (desires(mixed), mixed.wake_at) == ({"t3": S.RUNNING}, at(20))


def test_a_jobs_task_is_to_complete() -> None:
    assert desires(start(held(job_iteration=0))) == {"t2": S.COMPLETE}


def test_a_new_task_of_a_job_belongs_to_the_iteration() -> None:
    spec: ServiceSpec = make_spec(mode=ServiceMode(replicated_job=ReplicatedJob()))
    service = make_service(spec=spec, job_status=JobStatus(iteration=3))
    view = tables(service)
    make = Maker(view, service, at(0), Ids())
    new = make.create((1, ""))
    assert new.object.job_iteration == 3  # type: ignore[union-attr]
    assert new.object.desired_state is S.COMPLETE  # type: ignore[union-attr]
    first = Maker(view, replace(service, job_status=None), at(0), Ids()).create((1, ""))
    assert first.object.job_iteration == 0  # type: ignore[union-attr]
    late = make.create((1, ""), delay=timedelta(seconds=1))
    assert late.object.desired_state is S.READY  # type: ignore[union-attr]
