"""What a task says of itself on the wire."""

from typing import Any

from msgspec.structs import replace

from manager.api.wire.tasks import taken_ports, task_json
from manager.store.tables import Tables
from shoal.model.ids import NetworkID, ServiceID, TaskID
from shoal.model.objects import (
    Endpoint,
    NetworkAttachment,
    NetworkPool,
    TakenPort,
    Task,
    TaskStatus,
)
from shoal.model.spec.service import PortConfig, ServiceSpec
from shoal.model.states import NodeState, TaskState
from tests.builders import make_network, make_node, make_service, make_spec, make_task, tables

WHY = "node w1 is down"


def task(**fields: Any) -> Task:
    facts = {
        "id": TaskID("t"),
        "service_id": ServiceID("s"),
        "spec_version": 1,
        "service_spec": ServiceSpec(),
        "slot": 1,
        **fields,
    }
    return Task(**facts)


def shown(of: Task, view: Tables | None = None) -> dict[str, Any]:
    view = view or Tables()
    status = task_json(view, of, taken_ports(view))["Status"]
    assert isinstance(status, dict)
    return status


def test_a_task_that_is_to_stop_says_why_until_it_has_ended() -> None:
    running = TaskStatus(state=TaskState.RUNNING, message="started")
    lost = task(status=running, desired_state=TaskState.SHUTDOWN, reason=WHY)
    assert shown(lost)["Err"] == WHY
    ended = TaskStatus(state=TaskState.SHUTDOWN, message="shutdown")
    gone = task(status=ended, desired_state=TaskState.SHUTDOWN, reason=WHY)
    assert "Err" not in shown(gone)


def test_a_task_that_is_to_run_has_no_trouble_to_tell() -> None:
    running = TaskStatus(state=TaskState.RUNNING, message="started")
    fine = task(status=running, desired_state=TaskState.RUNNING, reason="fill a slot")
    assert "Err" not in shown(fine)


def test_trouble_of_its_own_comes_first() -> None:
    status = TaskStatus(state=TaskState.RUNNING, err="no such image")
    troubled = task(status=status, desired_state=TaskState.SHUTDOWN, reason=WHY)
    assert shown(troubled)["Err"] == "no such image"


def test_a_running_task_says_where_a_port_of_its_service_is_taken() -> None:
    port = PortConfig(protocol="tcp", target_port=80, published_port=8080)
    web = make_service("web", endpoint=Endpoint(ports=(port,)))
    other = make_service("other", endpoint=Endpoint(ports=(replace(port, protocol="udp"),)))
    taken = TakenPort(protocol="tcp", port=8080, reason="by nginx (pid 7)")
    host = make_node("n1", taken_ports=(taken,))
    name = host.description.hostname if host.description is not None else ""
    of_web, of_other = make_task("t1", web), make_task("t2", other)
    there = tables(web, other, host, of_web, of_other)
    sentence = f"not published on {name}: port 8080/tcp is taken (by nginx (pid 7))"
    assert shown(of_web, there)["Err"] == sentence
    assert "Err" not in shown(of_other, there)
    ended = replace(of_web, status=replace(of_web.status, state=TaskState.COMPLETE))
    assert "Err" not in shown(ended, there)
    assert "Err" not in shown(of_web, tables(web, replace(host, taken_ports=()), of_web))
    assert "Err" not in shown(of_web, tables(web, replace(host, state=NodeState.DOWN), of_web))


def test_host_ports_and_ports_of_the_cluster_are_told_apart() -> None:
    port = PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="host")
    web = make_service("web", endpoint=Endpoint(ports=(port,)))
    taken = TakenPort(protocol="tcp", port=8080, reason="by nginx (pid 7)")
    task = make_task("t1", web)
    assert "Err" not in shown(task, tables(web, make_node(taken_ports=(taken,)), task))


def test_a_task_behind_a_published_port_is_on_the_ingress_network() -> None:
    port = PortConfig(protocol="tcp", target_port=80, published_port=8080)
    published = make_service("web", make_spec(ports=(port,)))
    plain = make_service("plain")
    ingress = replace(
        make_network("in", name="ingress", ingress=True),
        pools=(NetworkPool(subnet="10.128.0.0/9"),),
    )
    host = make_node("n1", subnet="10.129.3.0/24")
    own = NetworkAttachment(network_id=NetworkID("back"), addresses=("10.0.1.5/24",))
    web = make_task("t1", published, addresses=("10.129.3.4",), networks=(own,))
    other = make_task("t2", plain, addresses=("10.129.3.5",))
    view = tables(published, plain, ingress, host, web, other)

    def places(of: Task) -> list[tuple[str, Any]]:
        shown: Any = task_json(view, of, {}).get("NetworksAttachments", [])
        return [(one["Network"]["ID"], tuple(one["Addresses"])) for one in shown]

    assert places(web) == [("in", ("10.129.3.4/24",)), ("back", ("10.0.1.5/24",))]
    assert places(other) == []
    ended = replace(web, status=replace(web.status, state=TaskState.COMPLETE))
    assert places(ended) == [("back", ("10.0.1.5/24",))]
