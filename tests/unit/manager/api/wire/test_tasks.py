"""What a task says of itself on the wire."""

from typing import Any

from msgspec.structs import replace

from manager.api.wire.tasks import taken_ports, task_json
from manager.store.tables import Tables
from shoal.model.ids import ServiceID, TaskID
from shoal.model.objects import Endpoint, TakenPort, Task, TaskStatus
from shoal.model.spec.service import PortConfig, ServiceSpec
from shoal.model.states import NodeState, TaskState
from tests.builders import make_node, make_service, make_task, tables

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
