"""What wakes which decider; that nothing is missing is `tests/properties`'s to show."""

import pytest
from msgspec.structs import replace

from manager.loops.table import TABLE, moved, turned
from manager.store.tables import Tables
from shoal.model.changes import Event
from shoal.model.objects import Endpoint, Node, NodeSession, ServiceVersion, StoredObject, Task
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import Resources
from shoal.model.states import NodeRole, NodeState
from shoal.model.states import TaskState as S
from tests.builders import make_cluster, make_node, make_service, make_spec, make_task, tables

ROWS = {row.name: row for row in TABLE}


def woken(
    event: Event, *things: StoredObject, view: Tables | None = None
) -> dict[str, list[str]]:
    """The keys of each row that an event wakes."""
    there = view if view is not None else tables(*things)
    found = {row.name: list(row.wakes(event, there)) for row in TABLE}
    return {name: keys for name, keys in found.items() if keys}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"message": "hm"}, False),
        ({"session": NodeSession(manager=make_node("m").id, session="2")}, False),
        ({"state": NodeState.DOWN}, True),
        ({"spec": make_node(availability="drain").spec}, True),
        ({"role": NodeRole.MANAGER}, True),
        ({"description": None}, True),
        ({"subnet": ""}, True),
        ({"addr": ""}, True),
    ],
)
def test_a_node_moves_when_other_tasks_fit_it(
    changes: dict[str, object], expected: bool
) -> None:
    before = make_node()
    assert moved(Event(before=before, after=replace(before, **changes))) is expected
    assert moved(Event(after=before))
    assert moved(Event(before=before))
    assert not moved(Event(after=make_task()))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (S.PENDING, S.ASSIGNED, False),
        (S.ASSIGNED, S.STARTING, False),
        (S.STARTING, S.RUNNING, True),
        (S.RUNNING, S.COMPLETE, True),
        (S.PREPARING, S.FAILED, True),
        (S.COMPLETE, S.ORPHANED, False),
    ],
)
def test_a_task_turns_when_it_runs_or_ends(before: S, after: S, expected: bool) -> None:
    event = Event(before=make_task(state=before), after=make_task(state=after))
    assert turned(event) is expected


def test_a_task_turns_when_something_else_is_desired_of_it() -> None:
    task = make_task()
    assert turned(Event(before=task, after=replace(task, desired_state=S.SHUTDOWN)))
    assert turned(Event(before=task, after=replace(task, spec_version=2)))
    assert turned(Event(after=task))
    assert turned(Event(before=task))
    assert not turned(Event(after=make_node()))


def test_a_new_node_wakes_what_it_may_have_been_waited_for() -> None:
    service, node = make_service(), make_node()
    pending = make_task(state=S.PENDING, node=None)
    keys = woken(Event(after=node), service, node, pending)
    assert keys == {
        "node health": ["n1"],
        "enforcer": ["n1"],
        "orphans": ["n1"],
        "global": ["s1"],
        "jobs": ["s1"],
        "update": ["s1"],
        "subnets": [""],
        "schedule": [""],
    }


def test_a_node_that_only_said_something_wakes_its_health_alone() -> None:
    node = make_node()
    event = Event(before=node, after=replace(node, message="x"))
    assert woken(event, node, make_service()) == {"node health": ["n1"], "orphans": ["n1"]}


def test_a_node_that_goes_wakes_the_services_of_its_tasks() -> None:
    keys = woken(Event(before=make_node()), make_service(), make_task())
    assert keys["replicated"] == keys["start"] == keys["reaper"] == ["s1"]


def test_a_task_wakes_its_service_when_it_turns() -> None:
    service = make_service()
    new = make_task(state=S.NEW, node=None)
    assert woken(Event(after=new), service, new)["allocate"] == ["s1"]
    dead = Event(before=make_task(), after=make_task(state=S.FAILED))
    keys = woken(dead, service)
    assert {"replicated", "global", "jobs", "update", "start", "reaper"} == set(keys)
    quiet = Event(before=make_task(state=S.ASSIGNED), after=make_task(state=S.STARTING))
    assert woken(quiet, service) == {}


def test_the_scheduler_wakes_only_where_something_waits() -> None:
    pending = make_task("p", state=S.PENDING, node=None)
    dead = Event(before=make_task(), after=make_task(state=S.FAILED))
    assert "schedule" not in woken(dead, make_service())
    assert woken(dead, make_service(), pending)["schedule"] == [""]
    assert woken(Event(after=pending), pending)["schedule"] == [""]


def test_ports_that_are_let_go_wake_the_services_that_wait() -> None:
    port = PortConfig(target_port=80, published_port=80, protocol="tcp")
    waits = make_service("w", make_spec(name="w", ports=(port,)))
    holder = make_service("h", make_spec(name="h"), endpoint=Endpoint(ports=(port,)))
    gone = woken(Event(before=holder), waits)
    assert gone["ports"] == gone["allocate"] == ["h", "w"]
    changed = replace(holder, endpoint=Endpoint())
    assert woken(Event(before=holder, after=changed), waits, changed)["ports"] == ["h", "w"]
    same = replace(holder, spec_version=2)
    assert woken(Event(before=holder, after=same), waits, same)["ports"] == ["h"]


def test_the_cluster_wakes_what_follows_its_settings() -> None:
    cluster = make_cluster()
    keys = woken(Event(before=cluster, after=cluster), make_service(), cluster)
    assert keys == {"subnets": [""], "reaper": ["s1"]}


def test_a_spec_version_wakes_the_reaper() -> None:
    version = ServiceVersion(
        id="s1/1", service_id=make_service().id, number=1, spec=make_spec()
    )
    assert woken(Event(after=version)) == {"reaper": ["s1"]}


def test_a_new_leader_looks_at_everything() -> None:
    orphan = make_task("t1", make_service("gone"), node="lost")
    view = tables(make_service(), make_node(), orphan)
    keys = {name: list(row.all_keys(view)) for name, row in ROWS.items()}
    assert keys["orphans"] == ["n1", "lost"]
    assert keys["removal"] == keys["reaper"] == ["s1", "gone"]
    assert keys["replicated"] == keys["ports"] == ["s1"]
    assert keys["schedule"] == keys["subnets"] == [""]
    assert keys["node health"] == ["n1"]


def test_events_are_about_something() -> None:
    with pytest.raises(ValueError, match="about something"):
        _ = Event().object
    assert isinstance(Event(before=make_task()).object, Task)
    assert isinstance(Event(before=make_task(), after=make_node()).object, Node)
    assert make_node(resources=Resources()).description is not None
