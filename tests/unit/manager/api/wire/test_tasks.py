"""What a task says of itself on the wire."""

from typing import Any

from manager.api.wire.tasks import task_json
from manager.store.tables import Tables
from shoal.model.ids import ServiceID, TaskID
from shoal.model.objects import Task, TaskStatus
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import TaskState

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


def shown(of: Task) -> dict[str, Any]:
    status = task_json(Tables(), of)["Status"]
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
