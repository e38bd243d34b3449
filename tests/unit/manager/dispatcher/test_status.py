"""Reports of agents: stored once, fenced by the session, never backwards."""

import asyncio

import pytest
from msgspec.structs import replace

from manager.dispatcher.status import Report, StatusWriter
from manager.store.codec import encode, encode_object
from manager.store.kv import DeleteRange, Put
from shoal.model.changes import Delete
from shoal.model.ids import NodeID, TaskID
from shoal.model.objects import NodeSession, Task, TaskStatus
from shoal.model.states import TaskState as S
from tests.builders import at, make_node, make_task
from tests.unit.manager.store.stored import Stored, stored

pytestmark = pytest.mark.looptime

SESSION = b"shoal/session/n1"


async def connected(made: Stored) -> int:
    """Node n1 with a session and an assigned task; the session's revision."""
    await made.create(make_node("n1"), make_task("t1", state=S.ASSIGNED))
    session = encode(NodeSession(manager=NodeID("m1"), session="1"))
    revision = (await made.kv.txn((), (Put(SESSION, session),))).revision
    await made.memory.reached(revision)
    return revision


def report(revision: int, state: S, since: float = 1, task: str = "t1") -> Report:
    status = TaskStatus(state=state, timestamp=at(since))
    return Report(NodeID("n1"), revision, TaskID(task), status)


async def store(made: Stored, *reports: Report) -> None:
    writer = StatusWriter(made.kv, made.memory)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(writer.run())
        await writer.store(reports)
        running.cancel()


def task_of(made: Stored) -> Task:
    found = made.memory.task(TaskID("t1"))
    assert found is not None
    return found


async def test_the_last_of_several_reports_is_stored() -> None:
    async with stored() as made:
        session = await connected(made)
        await store(made, report(session, S.PREPARING), report(session, S.RUNNING, 2))
        assert task_of(made).status == TaskStatus(state=S.RUNNING, timestamp=at(2))


async def test_reports_that_are_of_no_use_are_acknowledged_and_not_stored() -> None:
    async with stored() as made:
        session = await connected(made)
        await store(made, report(session, S.RUNNING))
        revision = made.memory.revision
        await store(made, report(session, S.RUNNING), report(session, S.RUNNING, task="gone"))
        await store(made, report(session, S.PREPARING))
        await store(made, report(session - 1, S.FAILED))
        failed = TaskStatus(state=S.FAILED)
        await store(made, Report(NodeID("n2"), session, TaskID("t1"), failed))
        assert made.memory.revision == revision
        assert task_of(made).status.state is S.RUNNING


async def test_a_session_that_has_ended_writes_nothing() -> None:
    async with stored() as made:
        session = await connected(made)
        await made.kv.txn((), (DeleteRange(SESSION),))
        await store(made, report(session, S.FAILED))
        assert task_of(made).status.state is S.ASSIGNED


async def test_a_task_that_goes_meanwhile_leaves_no_status_behind() -> None:
    async with stored() as made:
        session = await connected(made)
        await made.write(Delete(task_of(made)))
        await store(made, report(session, S.RUNNING))
        assert "shoal/status/t1" not in await made.keys()


async def test_a_write_given_up_and_done_late_lowers_nothing() -> None:
    """The older report arrives at the store after the newer one was stored."""
    async with stored() as made:
        session = await connected(made)
        made.fault_for(0.01, late_request=1.0, late=(3.0, 3.0))
        await store(made, report(session, S.RUNNING))
        await store(made, report(session, S.FAILED, 2))
        assert task_of(made).status.state is S.FAILED
        await asyncio.sleep(5)
        assert task_of(made).status.state is S.FAILED


async def test_an_answer_that_hangs_is_not_waited_for() -> None:
    async with stored() as made:
        session = await connected(made)
        begun = asyncio.get_running_loop().time()
        made.fault_for(0.9, answer=(6.7, 6.7))
        await store(made, report(session, S.RUNNING))
        assert asyncio.get_running_loop().time() - begun < 2
        assert task_of(made).status.state is S.RUNNING


async def test_another_write_of_the_task_is_decided_again() -> None:
    async with stored() as made:
        session = await connected(made)
        stale = task_of(made)
        changed = replace(stale, desired_state=S.SHUTDOWN, guard=0, version=0)
        made.fault_for(1.0, lag=(0.5, 0.5))
        await made.kv.txn((), (Put(b"shoal/task/t1", encode_object(changed)),))
        await store(made, report(session, S.RUNNING))
        assert task_of(made).status.state is S.RUNNING
        assert task_of(made).desired_state is S.SHUTDOWN
