"""What is over and deleted, what no longer fits its node, and whether nodes are heard of."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from msgspec.structs import replace

from manager.orchestrator import enforcer, node_health, reaper
from shoal.model.changes import NOTHING, Decision
from shoal.model.ids import NodeID, ServiceID
from shoal.model.objects import (
    Cluster,
    JobStatus,
    Node,
    NodeSession,
    Service,
    ServiceVersion,
    StoredObject,
    Task,
)
from shoal.model.spec.cluster import ClusterSpec, DispatcherConfig, OrchestrationConfig
from shoal.model.spec.service import Global, ReplicatedJob, ServiceMode, ServiceSpec
from shoal.model.spec.task import Placement, RestartPolicy
from shoal.model.states import NodeState
from shoal.model.states import TaskState as S
from tests.builders import (
    GIB,
    Ids,
    at,
    deleted,
    make_cluster,
    make_generic,
    make_node,
    make_resources,
    make_service,
    make_spec,
    make_task,
    tables,
    updated,
)

# -- history -----------------------------------------------------------------------------------


def limited(limit: int | None) -> Cluster:
    orchestration = OrchestrationConfig(task_history_retention_limit=limit)
    return make_cluster(spec=ClusterSpec(orchestration=orchestration))


def reap(*things: StoredObject) -> list[str]:
    return deleted(reaper.decide(tables(*things), "s1", at(0), Ids()))


def ended(count: int, service: Service | None = None, **more: object) -> list[Task]:
    fields: dict[str, object] = {"state": S.FAILED, "desired_state": S.SHUTDOWN, **more}
    return [
        make_task(f"h{n}", service, created=n, **fields)  # type: ignore[arg-type]
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("limit", "gone"),
    [
        (None, ["h0", "h1", "h2"]),
        (5, ["h0", "h1", "h2"]),
        (2, ["h0", "h1", "h2", "h3", "h4", "h5"]),
        (0, ["h0", "h1", "h2", "h3", "h4", "h5", "h6"]),
        (-1, []),
        (20, []),
    ],
)
def test_the_limit_counts_the_living_task_too(limit: int | None, gone: list[str]) -> None:
    living = make_task("t9", created=99)
    node = make_node()
    assert reap(limited(limit), make_service(), node, *ended(7), living) == gone


def test_without_a_cluster_object_the_limit_is_dockers() -> None:
    assert reap(make_service(), make_node(), *ended(7)) == ["h0", "h1"]


def test_the_last_end_of_a_slot_is_kept_so_that_it_is_not_filled_again() -> None:
    assert reap(limited(0), make_service(), make_node(), *ended(3)) == ["h0", "h1"]
    mode = ServiceMode(replicated_job=ReplicatedJob())
    never = RestartPolicy(condition="none")
    job = make_service(spec=make_spec(mode=mode, restart=never), job_status=JobStatus())
    parts = ended(3, job, job_iteration=0)
    assert reap(limited(0), job, make_node(), *parts) == ["h0", "h1"]


def test_what_counts_attempts_is_kept() -> None:
    service = make_service(spec=make_spec(restart=RestartPolicy(max_attempts=5)))
    living = make_task("t9", created=99)
    assert reap(limited(2), service, make_node(), *ended(7), living) == ["h0", "h1"]


def test_history_is_kept_per_slot_and_per_node_of_global_services() -> None:
    service = make_service(spec=make_spec(mode=ServiceMode(global_=Global())))
    tasks = [
        make_task(
            f"{node}{n}",
            service,
            node=node,
            slot=0,
            state=S.FAILED,
            desired_state=S.SHUTDOWN,
            created=n,
        )
        for node in ("n1", "n2")
        for n in range(2)
    ]
    nodes = make_node("n1"), make_node("n2")
    assert reap(limited(1), service, *nodes, *tasks) == ["n10", "n20"]


def test_running_tasks_and_those_that_still_stop_are_never_deleted() -> None:
    tasks = [
        make_task("t1", desired_state=S.SHUTDOWN),
        make_task("t2", desired_state=S.REMOVE, created=1),
        make_task("t3", created=2),
    ]
    assert reap(limited(0), make_service(), make_node(), *tasks) == []


def test_a_removed_task_goes_once_it_has_ended_or_its_node_is_gone() -> None:
    removed = make_task("t1", desired_state=S.REMOVE)
    stopped = replace(removed, status=replace(removed.status, state=S.SHUTDOWN))
    service, node = make_service(), make_node()
    assert reap(service, node, removed) == []
    assert reap(service, node, stopped) == ["t1"]
    assert reap(service, removed) == ["t1"]
    assert reap(stopped) == ["t1"], "its service is gone too"


def test_a_task_that_never_reached_a_node_leaves_no_history() -> None:
    pending = make_task("t1", node=None, state=S.PENDING, desired_state=S.SHUTDOWN)
    assert reap(make_service(), pending) == ["t1"]
    assert reap(make_service(), replace(pending, desired_state=S.READY)) == []


def version(number: int) -> ServiceVersion:
    return ServiceVersion(
        id=f"s1/{number}", service_id=ServiceID("s1"), number=number, spec=make_spec()
    )


def test_a_spec_goes_with_its_last_task() -> None:
    service = make_service(spec_version=3)
    versions = [version(n) for n in range(1, 5)]
    task = make_task("t1", service, spec_version=2)
    assert reap(service, make_node(), task, *versions) == ["s1/1"]
    assert reap(make_node(), task, *versions) == ["s1/1", "s1/3", "s1/4"]
    assert reaper.decide(tables(service, version(3)), "s1", at(0), Ids()) == NOTHING


# -- orphans -----------------------------------------------------------------------------------


def orphans(*things: StoredObject, now: float = 0) -> Decision:
    return reaper.orphan(tables(*things), "n1", at(now), Ids())


def test_tasks_of_a_removed_node_are_orphaned() -> None:
    done = make_task("t2", slot=2, state=S.COMPLETE)
    tasks = updated(orphans(make_task("t1"), done))
    assert list(tasks) == ["t1"]
    assert tasks["t1"].status.state is S.ORPHANED
    assert tasks["t1"].status.err == "its node was removed"
    assert orphans(done) == NOTHING


def test_tasks_of_a_node_that_is_down_for_a_day_are_orphaned() -> None:
    down = make_node("n1", state=NodeState.DOWN, down_since=at(0))
    day = timedelta(days=1).total_seconds()
    assert orphans(down, make_task("t1"), now=5) == Decision(wake_at=at(day))
    tasks = updated(orphans(down, make_task("t1"), now=day))
    assert tasks["t1"].status.err == "its node has been down for a day"
    for node in (make_node("n1"), replace(down, down_since=None)):
        assert orphans(node, make_task("t1"), now=day) == NOTHING


# -- what does not fit any more ----------------------------------------------------------------


def enforce(*things: StoredObject) -> dict[str, str]:
    decision = enforcer.decide(tables(*things), "n1", at(0), Ids())
    assert {task.desired_state for task in updated(decision).values()} <= {S.SHUTDOWN}
    return {name: task.reason for name, task in updated(decision).items()}


SSD = Placement(constraints=("node.labels.disk==ssd",))


def test_a_task_whose_constraint_holds_no_more_stops() -> None:
    service = make_service(spec=make_spec(placement=SSD))
    task = make_task("t1", service)
    assert enforce(service, task, make_node("n1", labels={"disk": "ssd"})) == {}
    assert enforce(service, task, make_node("n1")) == {
        "t1": "assigned node no longer meets constraints"
    }


@pytest.mark.parametrize(
    "node",
    [
        make_node("n2"),
        make_node("n1", availability="pause"),
        make_node("n1", availability="drain"),
        make_node("n1", state=NodeState.DOWN),
    ],
)
def test_nodes_that_are_paused_drained_down_or_gone_are_left_alone(node: StoredObject) -> None:
    service = make_service(spec=make_spec(placement=SSD))
    assert enforce(service, make_task("t1", service), node) == {}


def test_what_is_not_there_or_not_to_be_is_left_alone() -> None:
    service = make_service(spec=make_spec(placement=SSD))
    tasks = [
        make_task("t1", service, desired_state=S.SHUTDOWN),
        make_task("t2", service, state=S.FAILED),
        make_task("t3", service, state=S.PENDING),
    ]
    assert enforce(service, make_node("n1"), *tasks) == {}
    assert enforce(make_node("n1"), make_task("t1", service)) == {}, "its service is gone"


def test_a_clean_task_is_judged_by_the_present_constraints_a_dirty_one_by_its_own() -> None:
    old = make_service(spec=make_spec())
    clean = make_service(spec=make_spec(placement=SSD), spec_version=2)
    dirty = make_service(spec=make_spec(placement=SSD, image="app:2"), spec_version=2)
    task = make_task("t1", old)
    ssd = make_node("n1", labels={"disk": "ssd"})
    assert enforce(clean, task, ssd) == {}
    assert enforce(clean, task, make_node("n1")) == {}, "it is the updater's: it is dirty"
    assert enforce(dirty, task, make_node("n1")) == {}
    unreadable = make_service(spec=make_spec(placement=Placement(constraints=("x",))))
    assert enforce(unreadable, make_task("t1", unreadable), make_node("n1")) == {}


def reserving(generic: dict[str, int | tuple[str, ...]] | None = None) -> ServiceSpec:
    return make_spec(reserve=make_resources(1, 4 * GIB, generic=generic or {}))


def test_what_the_node_has_no_more_is_taken_from_the_youngest() -> None:
    service = make_service(spec=reserving())
    tasks = [make_task(f"t{n}", service, slot=n, created=n) for n in (1, 2, 3)]
    reason = "assigned node no longer has the reserved resources"
    roomy = make_node("n1", resources=make_resources(4, 12 * GIB))
    assert enforce(service, roomy, *tasks) == {}
    tight = make_node("n1", resources=make_resources(4, 8 * GIB))
    assert enforce(service, tight, *tasks) == {"t3": reason}
    assert enforce(service, make_node("n1", description=None), tasks[0]) == {"t1": reason}


@pytest.mark.parametrize(
    ("has", "left"),
    [
        ({"ssd": 2, "gpu": ("g1", "g2")}, []),
        ({"ssd": 1, "gpu": ("g1", "g2")}, ["t2"]),
        ({"ssd": 2, "gpu": ("g1",)}, ["t2"]),
        ({"ssd": 2}, ["t1", "t2"]),
    ],
)
def test_generic_resources_too(
    has: dict[str, int | tuple[str, ...]], left: Sequence[str]
) -> None:
    service = make_service(spec=reserving({"ssd": 1, "gpu": 1}))
    tasks = [make_task(f"t{n}", service, slot=n, created=n) for n in (1, 2)]
    node = make_node("n1", resources=make_resources(generic=has))
    assert list(enforce(service, node, *tasks)) == left


def test_a_name_that_is_reserved_is_one_tasks_alone() -> None:
    named = make_resources(0, 0)
    named = replace(named, generic_resources=make_generic("gpu", ("g1",)))
    service = make_service(spec=make_spec(reserve=named))
    tasks = [make_task(f"t{n}", service, slot=n, created=n) for n in (1, 2)]
    node = make_node("n1", resources=make_resources(generic={"gpu": ("g1", "g2")}))
    assert list(enforce(service, node, *tasks)) == ["t2"]


# -- node health -------------------------------------------------------------------------------


def health(node: StoredObject, now: float = 100, more: int = 0) -> Decision:
    view = tables(node, *(make_node(f"x{n}") for n in range(more)))
    return node_health.decide(view, "n1", at(now), Ids())


def test_a_node_with_a_session_is_ready() -> None:
    assert health(make_node("n2")) == NOTHING
    assert health(make_node("n1")) == NOTHING
    down = make_node(
        "n1",
        state=NodeState.DOWN,
        session=True,
        down_since=at(1),
        lost_since=at(0),
        message="x",
    )
    node = updated(health(down), type(down))["n1"]
    assert (node.state, node.message) == (NodeState.READY, "")
    assert (node.down_since, node.lost_since) == (None, None)
    back = make_node("n1", lost_since=at(99))
    assert updated(health(back), type(back))["n1"].lost_since is None


def test_a_node_that_is_silent_for_the_grace_is_down() -> None:
    silent = make_node("n1", session=False)
    first = health(silent)
    assert first.wake_at == at(103.5)
    lost = updated(first, type(silent))["n1"]
    assert (lost.state, lost.lost_since) == (NodeState.READY, at(100))
    assert health(lost, 102) == Decision(wake_at=at(103.5))
    down = updated(health(lost, 103.5), type(silent))["n1"]
    assert (down.state, down.down_since) == (NodeState.DOWN, at(103.5))
    assert down.message == "no session for 3.5 s"
    assert health(down, 200) == NOTHING


@pytest.mark.parametrize("session", [True, False])
def test_a_node_that_left_is_down_at_once_and_returns_like_any_other(session: bool) -> None:
    left = make_node("n1", session=session, left=True)
    down = updated(health(left), Node)["n1"]
    assert (down.state, down.message) == (NodeState.DOWN, "left the cluster")
    assert down.down_since == at(100)
    assert health(down) == NOTHING
    returned = replace(down, session=make_node("n1").session, left=False)
    assert updated(health(returned), Node)["n1"].state is NodeState.READY


def test_a_node_that_never_had_a_session_stays_unknown() -> None:
    assert health(make_node("n1", state=NodeState.UNKNOWN, session=False)) == NOTHING


def test_a_doubted_session_counts_for_nothing_new_and_costs_no_grace() -> None:
    doubted = make_node("n1", doubted="s1")
    assert doubted.session is not None
    lost = updated(health(doubted), type(doubted))["n1"]
    assert (lost.state, lost.lost_since) == (NodeState.READY, at(100))
    assert health(lost, 200) == NOTHING, "while its key is there it is not down"
    gone = replace(lost, session=None)
    first = health(gone, 200)
    assert first.wake_at == at(203.5), "the grace begins with the end of the key"
    later = updated(first, type(gone))["n1"]
    assert (later.lost_since, later.doubted) == (at(200), "")
    down = updated(health(later, 203.5), type(later))["n1"]
    assert down.state is NodeState.DOWN


def test_another_session_ends_the_doubt() -> None:
    other = NodeSession(manager=NodeID("m2"), session="s2")
    back = make_node("n1", doubted="s1", lost_since=at(99))
    back = replace(back, session=other)
    node = updated(health(back), type(back))["n1"]
    assert (node.state, node.lost_since, node.doubted) == (NodeState.READY, None, "")
    assert health(node) == NOTHING


def test_a_node_whose_host_lives_without_its_daemons_is_waited_for_but_not_for_ever() -> None:
    lost = make_node("n1", session=False, lost_since=at(100))
    spared = replace(lost, refused_at=at(103))
    assert health(lost, 103).wake_at == at(103.5)
    assert health(spared, 103.5) == Decision(wake_at=at(106.5))
    assert updated(health(spared, 106.5), type(lost))["n1"].state is NodeState.DOWN
    again = replace(lost, refused_at=at(114))
    assert health(again, 114.5) == Decision(wake_at=at(115)), "15 s at most"
    assert updated(health(again, 115), type(lost))["n1"].state is NodeState.DOWN
    session = NodeSession(manager=NodeID("m1"), session="s9")
    back = updated(health(replace(spared, session=session), 105), type(lost))["n1"]
    assert (back.lost_since, back.refused_at) == (None, None)


def test_the_grace_grows_with_the_heartbeat() -> None:
    assert node_health.grace(1, timedelta(seconds=5)) == timedelta(seconds=11.5)
    spec = ClusterSpec(dispatcher=DispatcherConfig(heartbeat_period=5_000_000_000))
    view = tables(make_node("n1", session=False), make_cluster(spec=spec))
    assert node_health.decide(view, "n1", at(100), Ids()).wake_at == at(111.5)


def test_the_grace_grows_with_the_cluster() -> None:
    assert node_health.grace(500) == timedelta(seconds=3.5)
    assert node_health.grace(5000) == timedelta(seconds=35)
    silent = make_node("n1", session=False)
    assert health(silent, more=999).wake_at == at(107)
    assert silent.id == NodeID("n1")


def test_nodes_have_time_to_find_the_manager_of_a_cluster_that_was_forced_anew() -> None:
    forced = make_cluster(forced_at=at(5))

    def judged(lost: float, now: float) -> Decision:
        view = tables(make_node("n1", session=False, lost_since=at(lost)), forced)
        return node_health.decide(view, "n1", at(now), Ids())

    assert judged(6, 24.9) == Decision(wake_at=at(25))
    assert updated(judged(6, 25), Node)["n1"].state is NodeState.DOWN
    assert judged(60, 61) == Decision(wake_at=at(63.5))
