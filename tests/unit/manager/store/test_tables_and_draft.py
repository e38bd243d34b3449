"""Tables in layers: finders, indexes, totals, and a draft that leaves what is below alone."""

import msgspec

from manager.store.draft import Draft
from manager.store.tables import Tables
from manager.view import NO_TOTALS, NodeTotals
from shoal.model.changes import Create, Delete, Event, Update
from shoal.model.ids import (
    ConfigID,
    NetworkID,
    NodeID,
    SecretID,
    ServiceID,
    TaskID,
)
from shoal.model.objects import Config, Secret, ServiceVersion, Task
from shoal.model.spec.service import PortConfig
from shoal.model.states import TaskState as S
from tests.builders import (
    CPU,
    GIB,
    make_cluster,
    make_generic,
    make_network,
    make_node,
    make_resources,
    make_service,
    make_spec,
    make_task,
    tables,
)

N1 = NodeID("n1")
HOST_PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host")
INGRESS = PortConfig(target_port=80, published_port=80)
FULL = make_service(spec=make_spec(reserve=make_resources(2, GIB), ports=(HOST_PORT, INGRESS)))


def generic_task(**more: object) -> Task:
    held = (*make_generic("gpu", ("g1",)), *make_generic("ssd", 2))
    return make_task(service=FULL, generic_resources=held, **more)  # type: ignore[arg-type]


def test_finders_find_by_kind_and_in_the_order_of_ids() -> None:
    version = ServiceVersion(id="s1/1", service_id=ServiceID("s1"), number=1, spec=make_spec())
    view = tables(
        make_task("t2"),
        make_task("t1", node=None, state=S.NEW),
        make_service("s1"),
        version,
        make_node("n2"),
        make_node("n1"),
        make_cluster(),
        make_network("net", name="net"),
        Secret(id=SecretID("sec"), name="sec"),
        Config(id=ConfigID("con"), name="con"),
    )
    assert [node.id for node in view.nodes()] == ["n1", "n2"]
    assert [task.id for task in view.tasks()] == ["t1", "t2"]
    assert [task.id for task in view.tasks_of_service(ServiceID("s1"))] == ["t1", "t2"]
    assert [task.id for task in view.tasks_of_node(N1)] == ["t2"]
    assert [task.id for task in view.pending_tasks()] == ["t1"]
    assert list(view.versions_of_service(ServiceID("s1"))) == [version]
    assert view.service_named("web") == view.service(ServiceID("s1"))
    assert view.service_named("none") is None
    assert view.cluster() == make_cluster()
    assert list(view.networks()) == [view.network(NetworkID("net"))]
    assert list(view.secrets()) == [view.secret(SecretID("sec"))]
    assert list(view.configs()) == [view.config(ConfigID("con"))]
    assert view.node(NodeID("t1")) is None, "an id of another kind"
    assert list(view.services()) == [make_service("s1")]


def test_an_empty_view_has_nothing() -> None:
    view = Tables()
    assert view.cluster() is None
    assert view.task(TaskID("t1")) is None
    assert not view.tasks_of_node(N1)
    assert view.totals(N1) == NO_TOTALS
    assert view.drop("t1") is None


def test_totals_count_what_runs() -> None:
    view = tables(generic_task())
    assert view.totals(N1) == NodeTotals(
        nano_cpus=2 * CPU,
        memory_bytes=GIB,
        tasks=1,
        by_service={FULL.id: 1},
        host_ports={("tcp", 8080): 1},
        discrete={"ssd": 2},
        named={("gpu", "g1"): 1},
    )
    view.drop("t1")
    assert view.totals(N1) == NO_TOTALS


def test_totals_leave_out_a_task_that_only_waits_for_its_node() -> None:
    """A global task has its node before it is assigned: it must not crowd itself out."""
    assert tables(generic_task(state=S.PENDING)).totals(N1) == NO_TOTALS


def test_a_task_that_is_stopping_holds_what_only_one_can_have() -> None:
    totals = tables(generic_task(desired_state=S.SHUTDOWN)).totals(N1)
    assert totals == NodeTotals(
        host_ports={("tcp", 8080): 1}, discrete={"ssd": 2}, named={("gpu", "g1"): 1}
    )


def test_an_ended_task_holds_nothing() -> None:
    assert tables(generic_task(state=S.FAILED)).totals(N1) == NO_TOTALS


def test_a_draft_lies_over_what_is_below() -> None:
    below = tables(make_task("t1"), make_task("t2"), make_node())
    draft = Draft(below)
    changed = make_task("t1", state=S.FAILED)
    events = draft.apply(
        (Create(make_task("t3", slot=3)), Update(changed), Delete(make_task("t2")))
    )
    assert events == (
        Event(after=make_task("t3", slot=3)),
        Event(before=make_task("t1"), after=changed),
        Event(before=make_task("t2")),
    )
    assert events[2].object == make_task("t2")
    assert [task.id for task in draft.tasks()] == ["t1", "t3"]
    assert [task.id for task in draft.tasks_of_node(N1)] == ["t1", "t3"]
    assert draft.totals(N1).tasks == 1
    assert draft.node(N1) == below.node(N1)
    assert draft.task(TaskID("t2")) is None
    assert [task.id for task in below.tasks_of_node(N1)] == ["t1", "t2"]
    assert below.totals(N1).tasks == 2
    assert draft.revision == below.revision


def test_an_object_moves_between_indexes() -> None:
    view = tables(make_task(node=None, state=S.PENDING))
    placed = msgspec.structs.replace(
        make_task(node=None, state=S.PENDING),
        node_id=N1,
        status=make_task(state=S.ASSIGNED).status,
    )
    view.put(placed)
    assert not view.pending_tasks()
    assert view.tasks_of_node(N1) == (placed,)
