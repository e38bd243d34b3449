"""Job services through the API: defaults, runs, counts, and slots as clients count them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.model.objects import Service, TaskStatus
from shoal.model.states import TaskState
from tests.unit.manager.api.serving import ME, WORKER, Cell, Client, serving
from tests.unit.manager.api.test_cluster import task_of
from tests.unit.manager.api.test_services import body, created


async def job(cell: Cell, client: Client, **mode: Any) -> Service:
    """A job as its manager remembers it."""
    identity = await created(client, body("job", Mode=mode))
    found = next(s for s in cell.memory.services() if s.id == identity)
    assert found.job_status is not None
    return found


async def update(client: Client, **changes: Any) -> int:
    shown = await client.get("/services/job")
    path = f"/services/job/update?version={shown['Version']['Index']}"
    return (await client.ask("POST", path, {**shown["Spec"], **changes}))[0]


async def place(cell: Cell, service: Service, slot: int, state: TaskState) -> None:
    task = task_of(service, slot, ME if slot else WORKER)
    assert service.job_status is not None
    await cell.create(
        msgspec.structs.replace(
            task,
            desired_state=TaskState.COMPLETE,
            job_iteration=service.job_status.iteration,
            status=TaskStatus(state=state, timestamp=task.created_at),
        )
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"MaxConcurrent": 1, "TotalCompletions": 1}),
        ({"MaxConcurrent": 3}, {"MaxConcurrent": 3, "TotalCompletions": 3}),
        ({"TotalCompletions": 5}, {"MaxConcurrent": 1, "TotalCompletions": 5}),
    ],
)
async def test_what_was_not_said_of_a_replicated_job(
    tmp_path: Path, given: dict[str, int], kept: dict[str, int]
) -> None:
    async with serving(tmp_path) as (cell, client):
        await job(cell, client, ReplicatedJob=given)
        shown = await client.get("/services/job?insertDefaults=true")
        assert shown["Spec"]["Mode"] == {"ReplicatedJob": kept}
        assert shown["JobStatus"]["JobIteration"] == {"Index": 0}
        assert "UpdateConfig" not in shown["Spec"]


async def test_a_changed_job_runs_anew(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        first = await job(cell, client, GlobalJob={})
        template = {"ContainerSpec": {"Image": "busybox"}, "ForceUpdate": 1}
        assert await update(client, TaskTemplate=template) == 200
        shown = await client.get("/services/job")
        assert shown["JobStatus"]["JobIteration"] == {"Index": 1}
        assert first.job_status is not None
        assert first.job_status.last_execution is not None
        assert shown["JobStatus"]["LastExecution"] > first.job_status.last_execution.isoformat()
        assert await update(client) == 200  # nothing changed: nothing runs
        shown = await client.get("/services/job")
        assert shown["JobStatus"]["JobIteration"] == {"Index": 1}
        assert await update(client, Mode={"Replicated": {}}) == 501


async def test_the_last_run_is_counted_and_slots_begin_with_zero(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        service = await job(
            cell, client, ReplicatedJob={"MaxConcurrent": 2, "TotalCompletions": 3}
        )
        await place(cell, service, 1, TaskState.COMPLETE)
        await place(cell, service, 2, TaskState.COMPLETE)
        await place(cell, service, 3, TaskState.RUNNING)
        (shown,) = await client.get("/services?status=true")
        counts = {"RunningTasks": 1, "DesiredTasks": 1, "CompletedTasks": 2}
        assert shown["ServiceStatus"] == counts
        tasks = await client.get("/tasks")
        assert sorted(task.get("Slot", 0) for task in tasks) == [0, 1, 2]
        assert {task["JobIteration"]["Index"] for task in tasks} == {0}
        assert await update(client, Labels={"a": "b"}) == 200
        (shown,) = await client.get("/services?status=true")
        counts = {"RunningTasks": 0, "DesiredTasks": 2, "CompletedTasks": 0}
        assert shown["ServiceStatus"] == counts
