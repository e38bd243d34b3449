from typing import Any

import msgspec

from manager.dispatcher.assignments import (
    ClusterPart,
    Confidences,
    TaskParts,
    assignments_for,
    cluster_part,
    difference,
)
from manager.dispatcher.networks import NetworkParts
from manager.store.tables import Tables
from shoal.model.assignment import Assignments, NetworkEndpoint, TaskNetwork
from shoal.model.changes import Event
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import (
    ContainerStatus,
    Node,
    NodeDescription,
    Service,
    StoredObject,
    Task,
    TaskStatus,
)
from shoal.model.spec.service import PortConfig
from shoal.model.states import NodeState, TaskState
from tests.unit.manager.allocator.clusters import allocated, network, service, tables, task

NOTHING_SEALED = Confidences({}, lambda secret: b"")
N1, N2, N3 = NodeID("n1"), NodeID("n2"), NodeID("n3")


def node(name: NodeID) -> Node:
    return Node(
        id=name,
        addr=f"192.0.2.{name[1:]}",
        subnet=f"10.129.{name[1:]}.0/24",
        description=NodeDescription(hostname=f"host-{name}"),
    )


class Told:
    """Nodes that are told of a cluster, as the dispatcher does it."""

    def __init__(self, *things: Any) -> None:
        nodes = [node(name) for name in (N1, N2, N3)]
        self.view: Tables = allocated(tables(*nodes, *things))
        self.parts = NetworkParts()

    def put(self, thing: StoredObject) -> frozenset[NetworkID]:
        before = self.view.put(thing)
        return self.parts.note(Event(before=before, after=thing))

    def drop(self, identity: str) -> frozenset[NetworkID]:
        return self.parts.note(Event(before=self.view.drop(identity), after=None))

    def move(self, name: str, state: TaskState, **more: Any) -> frozenset[NetworkID]:
        found = self.view.task(TaskID(name))
        assert found is not None
        status = TaskStatus(state=state, container=ContainerStatus(container_id="c" * 64))
        return self.put(msgspec.structs.replace(found, status=status, **more))

    def at(self, name: NodeID, part: ClusterPart | None = None) -> Assignments:
        return assignments_for(
            self.view,
            name,
            part or cluster_part(self.view),
            self.parts,
            NOTHING_SEALED,
            lambda task: not task.wanted,
            TaskParts(),
        )


def placed(of: Service, name: str, on: NodeID, slot: int = 1) -> Task:
    return task(of, name, node_id=on, slot=slot)


def small() -> Told:
    """Two tasks of a service on network a, on two nodes; the third has none."""
    web = service("web", "a")
    cluster = Told(network("a"), web, placed(web, "t1", N1), placed(web, "t2", N2, 2))
    for name in ("t1", "t2"):
        cluster.move(name, TaskState.RUNNING)
    return cluster


def test_a_node_is_told_of_the_networks_it_has_tasks_on_and_no_others() -> None:
    cluster = small()
    told = cluster.at(N1)
    (found,) = told.networks.values()
    assert (found.name, found.subnets[0].subnet) == ("a", "10.0.0.0/24")
    assert found.vni >= 4096
    assert told.tasks[TaskID("t1")].networks == (
        TaskNetwork(
            network_id=NetworkID("a"), addresses=("10.0.0.3/24",), mac="02:42:0a:00:00:03"
        ),
    )
    assert told.endpoints["a/t2"] == NetworkEndpoint(
        network_id=NetworkID("a"),
        task_id=TaskID("t2"),
        node_id=N2,
        underlay="192.0.2.2",
        addresses=("10.0.0.4",),
        mac="02:42:0a:00:00:04",
        names=("web.2.t2", "c" * 12),
        service_id=ServiceID("web"),
        serving=True,
    )
    assert told.services["a/web"].virtual_ips == ("10.0.0.2",)
    other = cluster.at(N3)
    assert (other.networks, other.endpoints, other.services) == ({}, {}, {})


def test_one_change_is_one_endpoint() -> None:
    cluster = small()
    before = cluster.at(N1)
    assert cluster.move("t2", TaskState.RUNNING, desired_state=TaskState.SHUTDOWN) == {"a"}
    after = cluster.at(N1)
    told = difference(before, after)
    assert told is not None
    assert [(one.task_id, one.serving) for one in told.endpoints] == [("t2", False)]
    assert (told.networks, told.services, told.tasks) == ((), (), ())
    cluster.move("t2", TaskState.SHUTDOWN)
    told = difference(after, cluster.at(N1))
    assert told is not None
    assert told.removed_endpoints == ("a/t2",)
    assert told.endpoints == ()
    assert cluster.at(N2).networks == {}, "nothing of it runs there any more"


def test_what_others_need_not_know_touches_no_network() -> None:
    cluster = small()
    cluster.at(N1)
    found = cluster.view.task(TaskID("t2"))
    assert found is not None
    assert cluster.put(msgspec.structs.replace(found, reason="because", version=9)) == set()
    assert cluster.put(msgspec.structs.replace(node(N2), version=7)) == set()
    moved = msgspec.structs.replace(node(N2), data_path_addr="198.51.100.2")
    assert cluster.put(moved) == {"a"}
    assert cluster.at(N1).endpoints["a/t2"].underlay == "198.51.100.2"


def test_serving_is_running_and_meant_to() -> None:
    cluster = small()
    for state, desired, serving in (
        (TaskState.STARTING, TaskState.RUNNING, False),
        (TaskState.RUNNING, TaskState.RUNNING, True),
        (TaskState.RUNNING, TaskState.REMOVE, False),
    ):
        cluster.move("t2", state, desired_state=desired)
        assert cluster.at(N1).endpoints["a/t2"].serving is serving


def test_nothing_serves_on_a_node_that_is_down_whatever_it_said_last() -> None:
    """A global service's task there is stopped by nobody, and stays RUNNING in the store."""
    cluster = small()
    before = cluster.at(N1)
    down = msgspec.structs.replace(node(N2), state=NodeState.DOWN)
    assert cluster.put(down) == {"a"}
    after = cluster.at(N1)
    told = difference(before, after)
    assert told is not None
    assert [(one.task_id, one.serving) for one in told.endpoints] == [("t2", False)]
    cluster.put(msgspec.structs.replace(down, state=NodeState.READY))
    told = difference(after, cluster.at(N1))
    assert told is not None
    assert [(one.task_id, one.serving) for one in told.endpoints] == [("t2", True)]


def test_a_service_is_known_by_its_aliases_and_without_addresses_for_dnsrr() -> None:
    web = service("web", "a", mode="dnsrr")
    template = web.spec.task_template
    networks = (msgspec.structs.replace(template.networks[0], aliases=("db", "sql")),)
    template = msgspec.structs.replace(template, networks=networks)
    web = msgspec.structs.replace(
        web, spec=msgspec.structs.replace(web.spec, task_template=template)
    )
    cluster = Told(network("a"), web, placed(web, "t1", N1))
    cluster.move("t1", TaskState.RUNNING)
    told = cluster.at(N1)
    assert told.services["a/web"].aliases == ("db", "sql")
    assert told.services["a/web"].virtual_ips == ()
    assert told.tasks[TaskID("t1")].networks[0].aliases == ("db", "sql")


def test_a_service_that_leaves_a_network_is_known_there_until_its_tasks_are_gone() -> None:
    cluster = small()
    cluster.at(N1)
    bare = cluster.view.service(ServiceID("web"))
    assert bare is not None
    left = msgspec.structs.replace(bare, spec=service("web").spec, spec_version=2)
    assert cluster.put(left) == {"a"}
    assert cluster.at(N1).services["a/web"].virtual_ips == ("10.0.0.2",)
    assert cluster.drop("web") == {"a"}
    assert cluster.at(N1).services == {}


def test_ingress_ports_say_where_their_backends_are() -> None:
    ports = (PortConfig(target_port=80, published_port=8080),)
    web = service("web", ports=ports)
    labelled = msgspec.structs.replace(web.spec, labels={"shoal.ingress.local-only": "true"})
    web = msgspec.structs.replace(web, spec=labelled)
    cluster = Told(network("in", ingress=True), web, placed(web, "t1", N1))
    found = cluster.view.task(TaskID("t1"))
    assert found is not None
    status = TaskStatus(state=TaskState.RUNNING, addresses=("10.129.1.9",))
    cluster.put(msgspec.structs.replace(found, status=status))
    (port,) = cluster.at(N3).ingress.ports
    assert port.local_only
    assert [(b.address, b.port, b.node_id) for b in port.backends] == [("10.129.1.9", 80, N1)]


def test_a_thousand_endpoints_on_five_nodes_are_cheap_to_change() -> None:
    services = [service(f"s{n:03}", "a") for n in range(200)]
    tasks = [
        placed(services[n % 200], f"t{n:04}", NodeID(f"n{n % 3 + 1}"), n) for n in range(1000)
    ]
    cluster = Told(network("a", "10.64.0.0/16"), *services, *tasks)
    for one in tasks:
        cluster.move(one.id, TaskState.RUNNING)
    before = {name: cluster.at(name) for name in (N1, N2, N3)}
    cluster.move("t0500", TaskState.RUNNING, desired_state=TaskState.SHUTDOWN)
    part = cluster_part(cluster.view)
    for name in (N1, N2, N3):
        told = cluster.at(name, part)
        sent = difference(before[name], told)
        assert sent is not None
        assert [one.task_id for one in sent.endpoints] == ["t0500"]
        assert (sent.services, sent.networks, sent.removed_endpoints) == ((), (), ())
        # made once for all nodes, and only what changed is made anew
        found = cluster.parts.of(cluster.view, NetworkID("a"))
        assert found is not None
        assert told.endpoints is found.endpoints
        anew = [k for k, v in told.endpoints.items() if v is not before[name].endpoints[k]]
        assert anew == ["a/t0500"]
