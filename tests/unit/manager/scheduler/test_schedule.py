"""Which node a task gets: spread, preferences, failures, and what it says while it waits."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from manager.scheduler import pipeline, schedule
from manager.scheduler.spread import Tree, levels
from manager.store.tables import Tables
from shoal.model.changes import NOTHING, Decision
from shoal.model.objects import Node, Service, StoredObject, Task
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import Placement, PlacementPreference, SpreadOver
from shoal.model.states import NodeState
from shoal.model.states import TaskState as S
from tests.builders import (
    GIB,
    Ids,
    at,
    make_node,
    make_resources,
    make_service,
    make_spec,
    make_task,
    settle,
    tables,
    updated,
)

HOST_PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host")


def spread(*labels: str) -> Placement:
    return Placement(
        preferences=tuple(
            PlacementPreference(spread=SpreadOver(spread_descriptor=label)) for label in labels
        )
    )


def pending(service: Service, count: int, first: int = 1, **more: object) -> Iterable[Task]:
    for number in range(first, first + count):
        fields: dict[str, object] = {"state": S.PENDING, "node": None, "slot": number, **more}
        yield make_task(f"p{number:03}", service, **fields)  # type: ignore[arg-type]


def decide(*things: StoredObject, now: float = 0) -> Decision:
    return schedule.decide(tables(*things), "", at(now), Ids())


def nodes_of(decision: Decision) -> dict[str, str | None]:
    """Where each changed task goes."""
    return {name: task.node_id for name, task in updated(decision).items()}


def test_nothing_waits() -> None:
    assert decide(make_node(), make_task()) == NOTHING
    assert decide(make_node(), make_task(state=S.NEW, node=None)) == NOTHING


def test_tasks_spread_over_nodes_by_service_then_by_all() -> None:
    other, service = make_service("s0", make_spec(name="other")), make_service("s1")
    view = (
        make_node("n1"),
        make_node("n2"),
        make_node("n3"),
        make_task("o1", other, node="n1"),
        make_task("o2", other, node="n1", slot=2),
        make_task("o3", other, node="n2", slot=3),
        make_task("t1", service, node="n3"),
    )
    decision = decide(*view, *pending(service, 3, 2))
    assert nodes_of(decision) == {"p002": "n2", "p003": "n1", "p004": "n3"}
    task = updated(decision)["p002"]
    assert task.status.state is S.ASSIGNED
    assert task.status.message == "scheduler assigned task to node"
    assert task.status.err == ""


def test_a_node_where_the_service_fails_is_avoided() -> None:
    service = make_service()
    failed = [
        make_task(f"f{n}", service, state=S.FAILED, desired_state=S.SHUTDOWN, since=n)
        for n in range(5)
    ]
    there = make_task("t9", service, node="n2", slot=2)
    things = (make_node("n1"), make_node("n2"), there)
    assert nodes_of(decide(*things, *failed[:4], *pending(service, 1), now=10))["p001"] == "n1"
    assert nodes_of(decide(*things, *failed, *pending(service, 1), now=10))["p001"] == "n2"
    late = decide(*things, *failed, *pending(service, 1), now=400)
    assert nodes_of(late)["p001"] == "n1", "the failures are too long ago"


def test_failures_of_another_version_do_not_count() -> None:
    old = make_service()
    new = make_service(spec=make_spec(image="app:2"), spec_version=2)
    failed = [
        make_task(f"f{n}", old, state=S.REJECTED, desired_state=S.SHUTDOWN) for n in range(9)
    ]
    there = make_task("t9", new, node="n2", slot=2)
    decision = decide(make_node("n1"), make_node("n2"), there, *failed, *pending(new, 1))
    assert nodes_of(decision) == {"p001": "n1"}


def test_a_waiting_task_says_why_once() -> None:
    spec = make_spec(
        reserve=make_resources(0, 5 * GIB),
        placement=Placement(constraints=("node.labels.disk==ssd",)),
    )
    service = make_service(spec=spec)
    small = make_resources(4, GIB)
    view = tables(
        *(make_node(f"n{n}", resources=small) for n in (1, 2)),
        *(make_node(f"n{n}") for n in (3, 4, 5)),
        *pending(service, 1),
    )
    decision = schedule.decide(view, "", at(0), Ids())
    (task,) = updated(decision).values()
    why = (
        "no suitable node (3 of 5: constraint node.labels.disk==ssd; 2 of 5: not enough memory)"
    )
    assert task.status.err == why
    assert task.status.message == f"pending task scheduling: {why}"
    assert task.status.state is S.PENDING
    assert schedule.decide(settle(view, decision), "", at(1), Ids()) == NOTHING


def test_what_is_placed_in_a_pass_counts_for_the_next_task() -> None:
    service = make_service(spec=make_spec(reserve=make_resources(1, 5 * GIB)))
    decision = decide(make_node("n1"), make_node("n2"), *pending(service, 3))
    assert nodes_of(decision) == {"p001": "n1", "p002": "n2", "p003": None}
    said = updated(decision)["p003"].status.err
    assert said == "no suitable node (2 of 2: not enough memory)"


def test_two_services_share_what_a_node_has_and_its_ports() -> None:
    one = make_service("s1", make_spec(name="a", ports=(HOST_PORT,)))
    two = make_service("s2", make_spec(name="b", ports=(HOST_PORT,)))
    tasks = (
        make_task("a1", one, state=S.PENDING, node=None),
        make_task("b1", two, state=S.PENDING, node=None),
    )
    decision = decide(make_node("n1"), *tasks)
    assert nodes_of(decision) == {"a1": "n1", "b1": None}
    assert "host-mode port 8080/tcp in use" in updated(decision)["b1"].status.err


def test_generic_resources_are_given_by_name() -> None:
    service = make_service(
        spec=make_spec(reserve=make_resources(0, 0, generic={"gpu": 1, "ssd": 2}))
    )
    node = make_node(resources=make_resources(generic={"gpu": ("g1", "g2"), "ssd": 5}))
    decision = decide(node, *pending(service, 3))
    given = [
        (
            task.generic_resources[0].named_resource_spec.value,
            task.generic_resources[1].discrete_resource_spec.value,
        )
        for task in updated(decision).values()
        if task.node_id is not None
    ]
    assert given == [("g1", 2), ("g2", 2)]
    assert "not enough gpu" in updated(decision)["p003"].status.err


def test_a_task_with_a_node_is_only_checked() -> None:
    service = make_service()
    task = make_task("g1", service, state=S.PENDING, node="n2", slot=0)
    assert nodes_of(decide(make_node("n1"), make_node("n2"), task)) == {"g1": "n2"}
    paused = decide(make_node("n1"), make_node("n2", availability="pause"), task)
    assert updated(paused)["g1"].status.err == "no suitable node (1 of 1: node is paused)"
    gone = decide(make_node("n1"), task)
    assert updated(gone)["g1"].status.err == "its node was removed"


def test_a_global_task_does_not_crowd_itself_out() -> None:
    spec = make_spec(ports=(HOST_PORT,), reserve=make_resources(3, 5 * GIB))
    task = make_task("g1", make_service(spec=spec), state=S.PENDING, node="n1", slot=0)
    assert updated(decide(make_node("n1"), task))["g1"].status.state is S.ASSIGNED


# -- max replicas per node ---------------------------------------------------------------------

ONE_EACH = Placement(max_replicas=1)


def test_a_new_version_starts_beside_the_old_one() -> None:
    """Else start-first could never start where every node has its maximum."""
    old = make_service(spec=make_spec(placement=ONE_EACH))
    new = make_service(spec=make_spec(placement=ONE_EACH, image="app:2"), spec_version=2)
    running = make_task("t1", old)
    assert nodes_of(decide(make_node("n1"), running, *pending(new, 1))) == {"p001": "n1"}


def test_tasks_of_the_same_template_count_whatever_their_version() -> None:
    spec = make_spec(placement=ONE_EACH)
    new = make_service(spec=msgspec.structs.replace(spec, labels={"a": "b"}), spec_version=2)
    running = make_task("t1", make_service(spec=spec))
    decision = decide(make_node("n1"), running, *pending(new, 2, 2))
    assert nodes_of(decision) == {"p002": None, "p003": None}


def test_tasks_that_stay_through_a_change_of_constraints_count() -> None:
    """They are not replaced, so their node would have one too many for good."""
    old = make_service(spec=make_spec(placement=ONE_EACH))
    narrow = Placement(max_replicas=1, constraints=("node.labels.disk==ssd",))
    new = make_service(spec=make_spec(placement=narrow), spec_version=2)
    stays = make_task("t1", old, node="n1")
    node = make_node("n1", labels={"disk": "ssd"})
    decision = decide(node, stays, *pending(new, 1, 2))
    assert nodes_of(decision) == {"p002": None}
    said = updated(decision)["p002"].status.err
    assert said == "no suitable node (1 of 1: max replicas per node (1) reached)"


def test_the_maximum_holds_within_a_pass() -> None:
    service = make_service(spec=make_spec(placement=Placement(max_replicas=2)))
    decision = decide(make_node("n1"), make_node("n2"), *pending(service, 5))
    counts = Counter(nodes_of(decision).values())
    assert counts == {"n1": 2, "n2": 2, None: 1}


# -- spread preferences ------------------------------------------------------------------------


def zoned(name: str, zone: str, rack: str = "") -> Node:
    return make_node(name, labels={"zone": zone, "rack": rack})


def test_tasks_are_split_evenly_over_the_values_of_a_label() -> None:
    service = make_service(spec=make_spec(placement=spread("node.labels.zone")))
    nodes = [zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "a"), zoned("n4", "b")]
    decision = decide(*nodes, *pending(service, 6))
    counts = Counter(nodes_of(decision).values())
    assert counts["n4"] == 3
    assert counts["n1"] == counts["n2"] == counts["n3"] == 1


def test_labels_within_labels_and_a_missing_one_is_a_value() -> None:
    placement = spread("node.labels.zone", "node.labels.rack")
    service = make_service(spec=make_spec(placement=placement))
    nodes = [
        zoned("n1", "a", "1"),
        zoned("n2", "a", "2"),
        zoned("n3", "a", "2"),
        make_node("n4"),
    ]
    counts = Counter(nodes_of(decide(*nodes, *pending(service, 8))).values())
    assert counts == {"n1": 2, "n2": 1, "n3": 1, "n4": 4}


def test_engine_labels_spread_too_and_what_is_no_label_is_no_level() -> None:
    placement = spread("engine.labels.zone", "node.hostname")
    service = make_service(spec=make_spec(placement=placement))
    nodes = [
        make_node("n1", engine_labels={"zone": "a"}),
        make_node("n2", engine_labels={"zone": "a"}),
        make_node("n3", description=None),
    ]
    counts = Counter(nodes_of(decide(*nodes, *pending(service, 4))).values())
    assert counts == {"n1": 1, "n2": 1, "n3": 2}
    assert len(levels(placement)) == 1
    assert levels(Placement(preferences=(PlacementPreference(),))) == ()


def test_tasks_on_nodes_that_take_none_count_for_their_branch() -> None:
    service = make_service(spec=make_spec(placement=spread("node.labels.zone")))
    drained = make_node("n1", labels={"zone": "a"}, availability="drain")
    there = [make_task(f"t{n}", service, node="n1", slot=10 + n) for n in range(2)]
    nodes = [drained, zoned("n2", "a"), zoned("n3", "b")]
    decision = decide(*nodes, *there, *pending(service, 2))
    assert set(nodes_of(decision).values()) == {"n3"}


def test_a_full_branch_leaves_the_rest_to_the_others() -> None:
    spec = make_spec(placement=spread("node.labels.zone"), reserve=make_resources(0, 5 * GIB))
    service = make_service(spec=spec)
    nodes = [zoned("n1", "a"), zoned("n2", "b"), zoned("n3", "b")]
    decision = decide(*nodes, *pending(service, 4))
    assert sorted(str(node) for node in nodes_of(decision).values()) == [
        "None",
        "n1",
        "n2",
        "n3",
    ]


def test_a_tree_of_nothing_gives_nothing() -> None:
    reader = levels(spread("node.labels.zone"))
    tree = Tree(reader, lambda node: (0, 0, 0, node.id))
    assert tree.take() is None
    tree.count([(zoned("n1", "a"), 1)])
    assert tree.take() is None


# -- many nodes --------------------------------------------------------------------------------


def many(count: int) -> Tables:
    return tables(*(make_node(f"n{number:04}") for number in range(count)))


def test_above_enough_nodes_it_goes_on_looking_where_the_first_are_full() -> None:
    """With a port of the host each node takes one task; none waits while a node is free."""
    service = make_service(spec=make_spec(ports=(HOST_PORT,)))
    view = many(pipeline.ENOUGH + 100)
    for task in pending(service, pipeline.ENOUGH + 101):
        view.put(task)
    decision = schedule.decide(view, "", at(0), Ids())
    placed = nodes_of(decision)
    assert sum(node is not None for node in placed.values()) == pipeline.ENOUGH + 100
    (left,) = [task for task in updated(decision).values() if task.node_id is None]
    total = pipeline.ENOUGH + 100
    assert left.status.err == (
        f"no suitable node ({total} of {total}: host-mode port 8080/tcp in use)"
    )


def test_nodes_that_are_down_are_told_apart_at_any_size() -> None:
    view = many(3)
    view.put(make_node("n9999", state=NodeState.DOWN))
    view.put(make_task("p1", make_service(), state=S.PENDING, node=None))
    assert nodes_of(schedule.decide(view, "", at(0), Ids())) == {"p1": "n0000"}


def test_a_service_that_cannot_be_placed_keeps_no_other_waiting() -> None:
    """A stored spec that no validation let in: its tasks say so, the others get their nodes."""
    good = make_service("s1", make_spec())
    poison = Placement(constraints=None)  # type: ignore[arg-type]
    bad = make_service("s0", make_spec(name="bad", placement=poison))
    node, tasks = make_node(), (*pending(good, 1), *pending(bad, 1, 2))
    decision = decide(node, good, bad, *tasks)
    assert nodes_of(decision) == {"p001": "n1", "p002": None}
    assert updated(decision)["p002"].status.err.startswith("internal error in the scheduler: ")
    assert [failure.about for failure in decision.failures] == ["s0"]
    again = decide(node, good, bad, *updated(decision).values())
    assert again.groups == ()
    assert [failure.about for failure in again.failures] == ["s0"]
