"""Replicated and global services, jobs, removal: how many tasks there should be, and where."""

from collections.abc import Callable, Sequence
from datetime import datetime

import pytest
from msgspec.structs import replace

from manager.orchestrator import global_mode, job_modes, removal, replicated_mode
from manager.view import View
from shoal.model.changes import NOTHING, Decision
from shoal.model.ids import IdSource
from shoal.model.objects import JobStatus, Node, Service, StoredObject, Task
from shoal.model.spec.service import (
    Global,
    GlobalJob,
    Replicated,
    ReplicatedJob,
    ServiceMode,
)
from shoal.model.spec.task import Placement, RestartPolicy
from shoal.model.states import NodeState
from shoal.model.states import TaskState as S
from tests.builders import (
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

Decide = Callable[[View, str, datetime, IdSource], Decision]
NEVER = RestartPolicy(condition="none")


def run(decide: Decide, *things: StoredObject, key: str = "s1") -> Decision:
    return decide(tables(*things), key, at(100), Ids())


def desires(decision: Decision) -> dict[str, S]:
    return {name: task.desired_state for name, task in updated(decision).items()}


def slots(decision: Decision) -> list[int]:
    return [task.slot for task in created(decision)]


ALL: Sequence[Decide] = (replicated_mode.decide, global_mode.decide, job_modes.decide)


@pytest.mark.parametrize("decide", ALL)
def test_each_mode_looks_at_its_own_services_alone(decide: Decide) -> None:
    assert run(decide) == NOTHING
    modes: dict[Decide, ServiceMode] = {
        replicated_mode.decide: ServiceMode(global_=Global()),
        global_mode.decide: ServiceMode(),
        job_modes.decide: ServiceMode(),
    }
    other = make_service(spec=make_spec(mode=modes[decide]))
    assert run(decide, other, make_node()) == NOTHING


# -- replicated --------------------------------------------------------------------------------


def replicated(replicas: int, restart: RestartPolicy | None = None) -> Service:
    return make_service(spec=make_spec(replicas=replicas, restart=restart))


def scale(service: Service, *tasks: Task, nodes: Sequence[Node] = ()) -> Decision:
    there = nodes or [make_node(name) for name in ("n1", "n2", "n3")]
    return run(replicated_mode.decide, service, *tasks, *there)


def test_the_lowest_free_slots_are_filled() -> None:
    service = replicated(4)
    decision = scale(
        service, make_task("t1", service, slot=2), make_task("t2", service, slot=5)
    )
    assert slots(decision) == [1, 3]
    new = created(decision)[0]
    assert (new.desired_state, new.status.state, new.node_id) == (S.RUNNING, S.NEW, None)
    assert (new.service_spec, new.spec_version) == (service.spec, 1)
    assert scale(replicated(0)) == NOTHING


def test_replicas_are_one_where_nothing_is_said() -> None:
    for mode in (ServiceMode(), ServiceMode(replicated=Replicated())):
        assert slots(scale(make_service(spec=make_spec(mode=mode)))) == [1]


def test_those_that_do_not_run_are_given_up_first_then_the_highest() -> None:
    service = replicated(2)
    tasks = [
        make_task("t1", service, slot=1, node="n1"),
        make_task("t2", service, slot=2, node="n2"),
        make_task("t3", service, slot=3, state=S.PREPARING, node="n3"),
    ]
    assert desires(scale(service, *tasks)) == {"t3": S.REMOVE}
    assert desires(scale(replicated(1), *tasks)) == {"t2": S.REMOVE, "t3": S.REMOVE}


def test_then_from_the_nodes_that_have_most() -> None:
    service = replicated(2)
    tasks = [
        make_task("t1", service, slot=1, node="n1"),
        make_task("t2", service, slot=2, node="n2"),
        make_task("t3", service, slot=3, node="n1"),
        make_task("t4", service, slot=4, node="n1"),
    ]
    assert desires(scale(service, *tasks)) == {"t3": S.REMOVE, "t4": S.REMOVE}


def test_a_slot_that_is_given_up_takes_its_history_along() -> None:
    service = replicated(1)
    tasks = [
        make_task("t1", service, slot=1),
        make_task("h2", service, slot=2, state=S.FAILED, desired_state=S.SHUTDOWN),
        make_task("t2", service, slot=2, created=1),
        make_task("h3", service, slot=3, state=S.SHUTDOWN, desired_state=S.SHUTDOWN),
        make_task("r3", service, slot=3, state=S.SHUTDOWN, desired_state=S.REMOVE),
    ]
    gone = {"h2": S.REMOVE, "t2": S.REMOVE, "h3": S.REMOVE}
    assert desires(scale(service, *tasks)) == gone


def test_a_slot_that_is_over_by_policy_counts_and_is_not_filled() -> None:
    service = replicated(1, NEVER)
    over = make_task("t1", service, state=S.COMPLETE, desired_state=S.SHUTDOWN)
    assert scale(service, over) == NOTHING
    stopped = replace(over, status=replace(over.status, state=S.SHUTDOWN))
    assert slots(scale(service, stopped)) == [1], "it was stopped, it did not end"


def test_a_new_task_waits_for_the_one_that_still_stops_in_its_slot() -> None:
    service = replicated(1)
    stopping = make_task("t1", service, desired_state=S.SHUTDOWN)
    (new,) = created(scale(service, stopping))
    assert (new.replaces, new.desired_state) == ("t1", S.READY)
    removed = replace(stopping, desired_state=S.REMOVE)
    (new,) = created(scale(service, removed))
    assert (new.replaces, new.desired_state) == (None, S.RUNNING)


def test_what_is_kept_is_healed_and_what_is_given_up_is_not() -> None:
    service = replicated(1)
    dead = [make_task(f"t{n}", service, slot=n, state=S.FAILED) for n in (1, 2)]
    decision = scale(service, *dead)
    assert slots(decision) == [1]
    assert desires(decision) == {"t1": S.SHUTDOWN, "t2": S.REMOVE}


# -- global ------------------------------------------------------------------------------------


def everywhere(*constraints: str, restart: RestartPolicy | None = None) -> Service:
    placement = Placement(constraints=constraints) if constraints else None
    mode = ServiceMode(global_=Global())
    return make_service(spec=make_spec(mode=mode, placement=placement, restart=restart))


def on(node: str, service: Service, **more: object) -> Task:
    return make_task(f"t-{node}", service, node=node, slot=0, **more)  # type: ignore[arg-type]


def test_each_node_that_takes_tasks_gets_one() -> None:
    service = everywhere()
    decision = run(
        global_mode.decide,
        service,
        make_node("n1"),
        make_node("n2", availability="pause"),
        make_node("n3", availability="drain"),
        make_node("n4", state=NodeState.DOWN),
        make_node("n5", state=NodeState.UNKNOWN),
        make_node("n6"),
        on("n6", service),
    )
    assert [(task.node_id, task.slot) for task in created(decision)] == [("n1", 0)]
    assert desires(decision) == {}


def test_a_node_that_matches_no_more_gives_its_task_up() -> None:
    service = everywhere("node.labels.disk==ssd")
    fits, not_any_more = make_node("n1", labels={"disk": "ssd"}), make_node("n2")
    decision = run(
        global_mode.decide, service, fits, not_any_more, on("n1", service), on("n2", service)
    )
    assert desires(decision) == {"t-n2": S.SHUTDOWN}
    assert not created(decision)
    assert run(global_mode.decide, everywhere("nonsense"), make_node()) == NOTHING


def test_availability_and_loss() -> None:
    service = everywhere()
    drained = run(
        global_mode.decide, service, make_node("n1", availability="drain"), on("n1", service)
    )
    assert desires(drained) == {"t-n1": S.SHUTDOWN}
    for node in (make_node("n1", availability="pause"), make_node("n1", state=NodeState.DOWN)):
        assert run(global_mode.decide, service, node, on("n1", service)) == NOTHING
    removed = run(
        global_mode.decide, service, make_node("n2", state=NodeState.DOWN), on("n1", service)
    )
    assert desires(removed) == {"t-n1": S.SHUTDOWN}


def test_a_node_that_is_not_heard_of_gets_none_that_it_would_lose_again() -> None:
    service = everywhere()
    lost = make_node("n1", session=False, lost_since=at(0))
    waiting = on("n1", service, state=S.PENDING)
    assert desires(run(global_mode.decide, service, lost, waiting)) == {"t-n1": S.SHUTDOWN}
    assert run(global_mode.decide, service, lost) == NOTHING, "or this would go on for ever"
    assert created(run(global_mode.decide, service, make_node("n1")))


def test_a_global_task_that_ended_is_followed_on_its_node() -> None:
    service = everywhere()
    decision = run(
        global_mode.decide, service, make_node("n1"), on("n1", service, state=S.FAILED)
    )
    (new,) = created(decision)
    assert (new.node_id, new.start_after) == ("n1", at(105))
    never = everywhere(restart=NEVER)
    over = on("n1", never, state=S.COMPLETE, desired_state=S.SHUTDOWN)
    assert run(global_mode.decide, never, make_node("n1"), over) == NOTHING


# -- jobs --------------------------------------------------------------------------------------


def job(total: int, at_once: int | None = 1, iteration: int = 0, **more: object) -> Service:
    mode = ServiceMode(
        replicated_job=ReplicatedJob(max_concurrent=at_once, total_completions=total)
    )
    spec = make_spec(mode=mode, **more)  # type: ignore[arg-type]
    return make_service(spec=spec, job_status=JobStatus(iteration=iteration))


def part(name: str, service: Service, **more: object) -> Task:
    assert service.job_status is not None
    fields: dict[str, object] = {
        "desired_state": S.COMPLETE,
        "job_iteration": service.job_status.iteration,
        **more,
    }
    return make_task(name, service, **fields)  # type: ignore[arg-type]


def test_a_job_fills_as_many_slots_as_it_may() -> None:
    service = job(5, 2)
    decision = run(job_modes.decide, service, make_node())
    assert slots(decision) == [1, 2]
    assert created(decision)[0].desired_state is S.COMPLETE
    done = part("t1", service, slot=1, state=S.COMPLETE)
    going = part("t2", service, slot=2)
    assert slots(run(job_modes.decide, service, make_node(), done, going)) == [3]
    assert slots(run(job_modes.decide, job(3, 0), make_node())) == [1, 2, 3]


def test_a_job_that_is_done_rests() -> None:
    service = job(2, 2)
    done = [part(f"t{n}", service, slot=n, state=S.COMPLETE) for n in (1, 2)]
    assert run(job_modes.decide, service, make_node(), *done) == NOTHING


def test_a_failed_part_is_followed_and_any_means_on_failure() -> None:
    service = job(1)
    failed = part("t1", service, state=S.FAILED)
    decision = run(job_modes.decide, service, make_node(), failed)
    assert slots(decision) == [1]
    assert desires(decision) == {"t1": S.SHUTDOWN}
    never = job(1, restart=NEVER)
    spent = part("t1", never, state=S.FAILED)
    assert desires(run(job_modes.decide, never, make_node(), spent)) == {"t1": S.SHUTDOWN}
    assert not created(run(job_modes.decide, never, make_node(), spent))


def test_what_still_runs_beside_a_completed_part_stops() -> None:
    service = job(1)
    done = part("t1", service, state=S.COMPLETE)
    double = part("t2", service, created=1)
    decision = run(job_modes.decide, service, make_node(), done, double)
    assert desires(decision) == {"t2": S.SHUTDOWN}


def test_a_new_iteration_removes_what_is_unfinished_of_the_one_before() -> None:
    before, service = job(2, 2, 0), job(2, 2, 1)
    old = [part("t1", before, slot=1, state=S.COMPLETE), part("t2", before, slot=2)]
    decision = run(job_modes.decide, service, make_node(), *old)
    assert desires(decision) == {"t2": S.REMOVE}
    assert [(task.slot, task.job_iteration) for task in created(decision)] == [(1, 1), (2, 1)]


def test_a_job_made_smaller_removes_the_slots_above() -> None:
    service = job(1)
    tasks = [
        part("t1", service, slot=1, state=S.COMPLETE),
        part("t2", service, slot=2),
        part("t3", service, slot=2, desired_state=S.REMOVE),
    ]
    assert desires(run(job_modes.decide, service, make_node(), *tasks)) == {"t2": S.REMOVE}
    assert run(job_modes.decide, service, make_node(), tasks[0], tasks[2]) == NOTHING


def test_a_global_job_runs_once_on_each_node_that_fits() -> None:
    placement = Placement(constraints=("node.labels.disk==ssd",))
    spec = make_spec(mode=ServiceMode(global_job=GlobalJob()), placement=placement)
    service = make_service(spec=spec, job_status=JobStatus())
    ssd = {"disk": "ssd"}
    nodes = [
        make_node("n1", labels=ssd),
        make_node("n2"),
        make_node("n3", labels=ssd, availability="pause"),
        make_node("n4", labels=ssd, state=NodeState.DOWN),
        make_node("n5", labels=ssd),
        make_node("n6", labels=ssd),
    ]
    tasks = [
        part("t5", service, node="n5", slot=0, state=S.COMPLETE),
        part("t6", service, node="n6", slot=0),
    ]
    decision = run(job_modes.decide, service, *nodes, *tasks)
    assert [task.node_id for task in created(decision)] == ["n1"]
    assert desires(decision) == {}
    unreadable = replace(
        service,
        spec=make_spec(
            mode=ServiceMode(global_job=GlobalJob()), placement=Placement(constraints=("x",))
        ),
    )
    assert run(job_modes.decide, unreadable, *nodes) == NOTHING


def test_a_removed_node_gives_up_its_part_of_a_job_unless_it_is_done() -> None:
    spec = make_spec(mode=ServiceMode(global_job=GlobalJob()))
    service = make_service(spec=spec, job_status=JobStatus())
    tasks = [
        part("t1", service, node="gone", slot=0, state=S.ORPHANED),
        part("t2", service, node="left", slot=0, state=S.COMPLETE),
    ]
    assert desires(run(job_modes.decide, service, *tasks)) == {"t1": S.SHUTDOWN}


def test_a_drained_node_gives_up_its_part_of_a_job() -> None:
    spec = make_spec(mode=ServiceMode(global_job=GlobalJob()))
    service = make_service(spec=spec, job_status=JobStatus())
    task = part("t1", service, slot=0)
    decision = run(job_modes.decide, service, make_node("n1", availability="drain"), task)
    assert desires(decision) == {"t1": S.SHUTDOWN}


# -- removal -----------------------------------------------------------------------------------


def test_every_task_of_a_service_that_is_gone_is_to_go() -> None:
    tasks = [
        make_task("t1"),
        make_task("t2", slot=2, desired_state=S.SHUTDOWN, state=S.FAILED),
        make_task("t3", slot=3, desired_state=S.REMOVE),
    ]
    assert desires(run(removal.decide, *tasks)) == {"t1": S.REMOVE, "t2": S.REMOVE}
    assert run(removal.decide, make_service(), *tasks) == NOTHING
    assert run(removal.decide, tasks[2]) == NOTHING
