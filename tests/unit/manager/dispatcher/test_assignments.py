"""What one node is told, and the difference from one such set to the next."""

from collections.abc import Container

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typing_extensions import override

from manager.dispatcher.assignments import (
    NOTHING_ASSIGNED,
    ClusterPart,
    Confidences,
    TaskParts,
    assignments_for,
    cluster_part,
    complete,
    difference,
    mesh_prefix6,
)
from manager.dispatcher.networks import NetworkParts, assigned_network
from manager.view import View
from shoal.model.assignment import (
    AssignedTask,
    Assignments,
    Backend,
    Difference,
    IngressPort,
    IngressSet,
    ManagerAddress,
    ManagerSet,
    MeshPart,
    Payload,
    Peer,
)
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import (
    Endpoint,
    ManagerInfo,
    NetworkPool,
    NodeDescription,
    StoredObject,
    Task,
)
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import ContainerSpec
from shoal.model.states import NodeRole, NodeState
from shoal.model.states import TaskState as S
from tests.builders import (
    GIB,
    START,
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
HOST = PortConfig(target_port=80, published_port=8080, publish_mode="host")
INGRESS = PortConfig(protocol="tcp", target_port=80, published_port=80, publish_mode="ingress")


def told(*things: StoredObject, node: NodeID = N1) -> Assignments:
    view = tables(*things)
    confidences = Confidences({ServiceID("s1"): "login"}, lambda secret: b"")
    return made(view, node, confidences)


def made(
    view: View,
    node: NodeID,
    confidences: Confidences,
    drained: Container[TaskID] = (),
    parts: TaskParts | None = None,
) -> Assignments:
    return assignments_for(
        view,
        node,
        cluster_part(view),
        NetworkParts(),
        confidences,
        lambda task: task.id in drained,
        parts or TaskParts(),
    )


def test_published_ports_lead_to_the_tasks_that_serve() -> None:
    service = make_service("s1", make_spec(), endpoint=Endpoint(ports=(INGRESS, HOST)))
    tasks = [
        make_task("t1", service, addresses=("10.1.0.2", "10.2.0.2")),
        make_task("t2", service, slot=2, state=S.STARTING, addresses=("10.1.0.3",)),
        make_task("t3", service, slot=3, desired_state=S.SHUTDOWN, addresses=("10.1.0.4",)),
        make_task("t4", service, slot=4),
    ]
    other = make_service("s2", make_spec(name="other"))
    view = tables(make_node("n1"), other, service, *tasks)
    backend = Backend(address="10.1.0.2", port=80, node_id=N1)
    expected = IngressPort(protocol="tcp", published=80, backends=(backend,))
    assert cluster_part(view).ingress == IngressSet(ports=(expected,))


def test_published_ports_do_not_lead_to_a_node_that_is_down() -> None:
    service = make_service("s1", make_spec(), endpoint=Endpoint(ports=(INGRESS,)))
    tasks = [
        make_task("t1", service, node="n1", addresses=("10.1.0.2",)),
        make_task("t2", service, slot=2, node="n2", addresses=("10.2.0.2",)),
    ]
    lost = make_node("n2", state=NodeState.DOWN)
    (port,) = cluster_part(tables(make_node("n1"), lost, service, *tasks)).ingress.ports
    assert [backend.node_id for backend in port.backends] == [N1]


def test_the_mesh_and_the_managers() -> None:
    manager = make_node(
        "n1",
        role=NodeRole.MANAGER,
        manager=ManagerInfo(addr="10.9.0.1:2377"),
        data_path_addr="10.8.0.1",
        subnet="10.128.0.0/24",
    )
    worker = make_node("n2", subnet="10.128.1.0/24", addr="10.9.0.2")
    bare = [make_node("n3", subnet=""), make_node("n4", addr="")]
    leaving = make_node("n5", addr="", manager=ManagerInfo(addr="10.9.0.5:2377"))
    ingress = make_network("in", name="ingress", ingress=True)
    ingress = msgspec.structs.replace(ingress, pools=(NetworkPool(subnet="10.128.0.0/9"),))
    view: list[StoredObject] = [make_cluster(data_path_port=4000), manager, worker, leaving]
    view.append(ingress)
    view.extend(bare)
    part = cluster_part(tables(*view))
    assert part.managers == ManagerSet(
        managers=(ManagerAddress(node_id=N1, address="10.9.0.1:2377"),)
    )
    first = Peer(node_id=N1, address="10.8.0.1", subnet="10.128.0.0/24")
    second = Peer(node_id=NodeID("n2"), address="10.9.0.2", subnet="10.128.1.0/24")
    assert part.peers == (first, second)
    assert told(*view).mesh == MeshPart(
        subnet="10.128.0.0/24",
        port=4000,
        peers=(second,),
        prefix6=mesh_prefix6(make_cluster().id),
        ingress=assigned_network(ingress),
    )
    removed = msgspec.structs.replace(ingress, pending_delete=True)
    assert told(*view, removed).mesh.ingress is None
    assert (told(*view).role, told(*view, node=NodeID("n2")).role) == ("manager", "worker")
    assert cluster_part(tables()) == ClusterPart()


def test_a_node_is_told_its_tasks_with_all_resolved() -> None:
    spec = make_spec(
        reserve=make_resources(1, GIB),
        ports=(HOST, INGRESS),
        labels={"tier": "front"},
        hostname="{{.Node.Hostname}}-{{.Task.Slot}}",
        env=("TIER={{.Service.Labels.tier}}",),
    )
    service = make_service("s1", spec)
    tasks = [
        make_task("t1", service, slot=3),
        make_task("t2", service, slot=4, state=S.PENDING),
        make_task("t3", service, slot=5, node="n2"),
        make_task("t4", service, slot=6, state=S.FAILED, desired_state=S.SHUTDOWN),
    ]
    found = told(make_node("n1"), *tasks)
    assert list(found.tasks) == ["t1", "t4"]
    task = found.tasks[TaskID("t1")]
    assert (task.name, task.slot, task.registry_auth) == ("web.3.t1", 3, "login")
    assert task.container.hostname == "host-n1-3"
    assert task.container.env == ("TIER=front",)
    assert task.ports == (HOST,)
    assert task.labels["com.docker.swarm.task.name"] == "web.3.t1"
    assert task.labels["com.docker.swarm.node.id"] == "n1"
    assert found.tasks[TaskID("t4")].desired_state is S.SHUTDOWN


def test_a_global_task_has_its_node_for_the_slot() -> None:
    service = make_service("s1", make_spec(hostname="{{.Node.Hostname}}{{.Task.Slot}}"))
    task = make_task("t1", service, slot=0)
    found = told(make_node("n1", description=None), task).tasks[task.id]
    assert found.name == "web.n1.t1"
    assert found.container.hostname == "n1"
    assert found.ports == ()


def test_a_node_that_is_gone_is_told_nothing() -> None:
    assert told(make_task()) == NOTHING_ASSIGNED


# -- differences -------------------------------------------------------------------------------


def assigned(identity: str, slot: int) -> AssignedTask:
    return AssignedTask(
        id=TaskID(identity),
        service_id=ServiceID("s1"),
        service_name="web",
        name=f"web.{slot}.{identity}",
        slot=slot,
    )


names = st.sampled_from(["a", "b", "c", "d"])
sets = st.builds(
    Assignments,
    tasks=st.dictionaries(names, st.integers(1, 3)).map(
        lambda found: {TaskID(name): assigned(name, slot) for name, slot in found.items()}
    ),
    secrets=st.dictionaries(names, st.binary(max_size=1)).map(
        lambda found: {name: Payload(id=name, data=data) for name, data in found.items()}
    ),
    configs=st.dictionaries(names, st.binary(max_size=1)).map(
        lambda found: {name: Payload(id=name, data=data) for name, data in found.items()}
    ),
    mesh=st.builds(MeshPart, subnet=st.sampled_from(["", "10.1.0.0/24"])),
    ingress=st.sampled_from(
        [IngressSet(), IngressSet(ports=(IngressPort(protocol="tcp", published=80),))]
    ),
    role=st.sampled_from(["worker", "manager"]),
)


def applied(old: Assignments, change: Difference) -> Assignments:
    """What an agent makes of a difference."""
    tasks = {k: v for k, v in old.tasks.items() if k not in change.removed_tasks}
    secrets = {k: v for k, v in old.secrets.items() if k not in change.removed_secrets}
    configs = {k: v for k, v in old.configs.items() if k not in change.removed_configs}
    return Assignments(
        tasks={**tasks, **{one.id: one for one in change.tasks}},
        secrets={**secrets, **{one.id: one for one in change.secrets}},
        configs={**configs, **{one.id: one for one in change.configs}},
        mesh=change.mesh if change.mesh is not None else old.mesh,
        ingress=change.ingress if change.ingress is not None else old.ingress,
        managers=change.managers if change.managers is not None else old.managers,
        role=change.role if change.role is not None else old.role,
    )


@given(sets, sets)
def test_a_difference_leads_from_one_set_to_the_next(
    old: Assignments, new: Assignments
) -> None:
    change = difference(old, new)
    if change is None:
        assert old == new
    else:
        assert applied(old, change) == new
        assert old != new


@given(sets, sets)
def test_a_complete_set_says_every_part_from_nothing(
    old: Assignments, new: Assignments
) -> None:
    whole = complete(new)
    assert applied(NOTHING_ASSIGNED, whole) == new
    assert None not in (whole.mesh, whole.ingress, whole.managers, whole.role)
    assert whole.removed_tasks == whole.removed_secrets == whole.removed_configs == ()
    bare = applied(Assignments(mesh=old.mesh, ingress=old.ingress, role=old.role), whole)
    assert bare == new


def test_a_task_is_told_anew_only_where_something_of_it_changed() -> None:
    service = make_service("s1", make_spec())
    view = tables(make_node("n1"), service, *(make_task(f"t{n}", service) for n in range(3)))
    drained: set[TaskID] = set()
    parts = TaskParts()

    def tasks(logins: dict[ServiceID, str] | None = None) -> list[AssignedTask]:
        sealed = Confidences(logins or {}, lambda secret: b"")
        found = made(view, N1, sealed, drained, parts)
        return [found.tasks[one] for one in sorted(found.tasks)]

    before = tasks()
    changed = view.task(TaskID("t1"))
    assert changed is not None
    view.put(replace(changed, updated_at=START))  # nothing that its node is told
    assert all(a is b for a, b in zip(tasks(), before, strict=True))
    view.put(replace(changed, desired_state=S.SHUTDOWN))
    assert [a is b for a, b in zip(tasks(), before, strict=True)] == [True, False, True]
    assert tasks()[1].desired_state is S.SHUTDOWN
    drained.add(TaskID("t1"))
    assert tasks()[1].drained
    assert tasks({ServiceID("s1"): "login"})[0].registry_auth == "login"
    view.put(replace(make_node("n1", labels={"a": "b"}), description=NodeDescription()))
    assert tasks()[0] == before[0]
    view.drop("t0")
    assert len(tasks()) == 2
    assert TaskID("t0") not in parts._told


def test_a_manager_that_is_to_be_demoted_is_listed_no_more() -> None:
    """Agents open their doors to those in the list: demotion acts at once."""
    stays, goes = (
        make_node(name, role=NodeRole.MANAGER, manager=ManagerInfo(addr=f"{name}:2377"))
        for name in ("n1", "n2")
    )
    goes = replace(goes, spec=replace(goes.spec, role=NodeRole.WORKER.value))
    part = cluster_part(tables(stays, goes))
    assert [each.node_id for each in part.managers.managers] == [N1]


class _Poisoned(ContainerSpec, frozen=True):
    """A container spec that nobody can read: an object as no validation let it in."""

    @override
    def __getattribute__(self, name: str) -> object:
        if name == "env":
            raise ZeroDivisionError("seven by nothing")
        return super().__getattribute__(name)


def _poisoned(task: Task) -> Task:
    template = replace(task.service_spec.task_template, container_spec=_Poisoned(image="web"))
    return replace(task, service_spec=replace(task.service_spec, task_template=template))


def test_a_task_that_cannot_be_told_keeps_no_other_from_its_node() -> None:
    bad = _poisoned(make_task("t1", slot=1))
    view = tables(make_node("n1"), bad, make_task("t2", slot=2))
    parts = TaskParts()
    found = made(view, N1, Confidences({}, lambda secret: b""), parts=parts)
    assert list(found.tasks) == ["t1", "t2"]
    (missing,) = found.tasks[TaskID("t1")].container.secrets
    assert found.secrets[missing.secret_id].error == (
        "internal error: the manager cannot say what the task is to run: "
        "ZeroDivisionError('seven by nothing')"
    )
    assert [failure.about for failure in parts.failures] == ["t1"]


def test_a_task_that_cannot_be_told_any_more_stays_as_told_and_stops_when_it_is_to() -> None:
    good = make_task("t1")
    parts = TaskParts()
    confidences = Confidences({}, lambda secret: b"")
    before = made(tables(make_node("n1"), good), N1, confidences, parts=parts)
    bad = replace(_poisoned(good), desired_state=S.SHUTDOWN)
    after = made(tables(make_node("n1"), bad), N1, confidences, parts=parts)
    told = after.tasks[TaskID("t1")]
    assert told == replace(before.tasks[TaskID("t1")], desired_state=S.SHUTDOWN)


def test_a_task_is_told_which_generic_resources_of_its_node_are_its_own() -> None:
    service = make_service("s1", make_spec())
    claims = make_generic("gpu", ("uuid-1",)) + make_generic("ssd", 2)
    task = make_task("t1", service, node="n1", generic_resources=claims)
    (assigned,) = told(make_node("n1"), service, task).tasks.values()
    assert assigned.container.env == ("DOCKER_RESOURCE_GPU=uuid-1", "DOCKER_RESOURCE_SSD=2")
