"""The control loop: one commit a pass, keys that stay dirty, wakes, and unknown outcomes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from manager.loops import troubles
from manager.loops.loop import RETRY_SECONDS, ControlLoop, Row
from manager.loops.table import TABLE
from manager.store import keys
from manager.store.codec import encode
from manager.store.commit import Commit
from manager.store.kv import DeleteRange, Put
from manager.view import View
from shoal.model.changes import NOTHING, Create, Decision, Event, Group, Update
from shoal.model.ids import IdSource, NodeID, TaskID
from shoal.model.objects import Node, NodeReport, Task
from shoal.model.states import TaskState as S
from tests.builders import START, make_cluster, make_node, make_service, make_spec, make_task
from tests.unit.manager.store.stored import Stored, stored

pytestmark = pytest.mark.looptime

Decide = Callable[[View, str, datetime, IdSource], Decision]


class LoopClock:
    """Wall time that goes with the loop's."""

    def now(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def leading(made: Stored, table: Iterable[Row] = TABLE) -> AsyncIterator[None]:
    """The loop of an elected leader runs."""
    epoch = (await made.kv.txn((), (Put(b"leader", b"me"),))).revision
    await made.memory.reached(epoch)
    commit = Commit(made.kv, made.memory, made.ids, (b"leader", epoch))
    loop = ControlLoop(tuple(table), made.memory, commit, LoopClock(), made.ids)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(loop.run())
        yield
        running.cancel()


def one_row(decide: Decide) -> tuple[Row, ...]:
    """A table of one decider that is woken by nodes."""

    def wakes(event: Event, view: View) -> Iterable[str]:
        return (event.object.id,) if isinstance(event.object, Node) else ()

    return (Row("row", wakes, lambda view: [node.id for node in view.nodes()], decide),)


async def cluster(made: Stored, *nodes: str) -> None:
    """Nodes that are described and connected, as their agents would have it."""
    for name in nodes:
        node = make_node(name)
        assert node.description is not None
        assert node.session is not None
        report = NodeReport(description=node.description, addr=node.addr)
        puts = (
            Put(keys.describe_key(name).encode(), encode(report)),
            Put(keys.session_key(name).encode(), encode(node.session)),
        )
        await made.kv.txn((), puts)
    await made.create(make_cluster(), *(make_node(node) for node in nodes))


async def test_a_new_service_is_assigned_in_one_commit() -> None:
    async with stored() as made:
        await cluster(made, "n1", "n2")
        async with leading(made):
            await made.create(make_service("s1", make_spec(replicas=50)))
            created = made.memory.revision
            await made.memory.reached(created + 1)
            tasks = list(made.memory.tasks())
            assert [task.status.state for task in tasks] == [S.ASSIGNED] * 50
            assert {task.version for task in tasks} == {created + 1}


async def test_a_write_that_is_late_doubles_nothing() -> None:
    """The loop decides again only once it is known that its write will never happen."""
    async with stored() as made:
        await cluster(made, "n1")
        async with leading(made):
            await made.create(make_service("s1", make_spec(replicas=3)))
            made.fault_for(2.0, late_request=1.0, late=(0.1, 6.0))
            await asyncio.sleep(10)
            tasks = [task for task in made.memory.tasks() if task.wanted]
            assert sorted(task.slot for task in tasks) == [1, 2, 3]


async def test_a_wake_is_kept_until_its_time() -> None:
    seen: list[float] = []

    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        seen.append((now - START).total_seconds())
        later = START + timedelta(seconds=30)
        return Decision(wake_at=later) if now < later else NOTHING

    async with stored() as made:
        await made.create(make_node("n1"))
        async with leading(made, one_row(decide)):
            await asyncio.sleep(100)
        assert len(seen) == 2
        assert seen[1] == pytest.approx(30)


async def test_a_clash_is_decided_again_on_what_is_there() -> None:
    async with stored() as made:
        await made.create(make_node("n1"))
        rounds: list[str] = []

        def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
            node = view.node(NodeID(key))
            assert node is not None
            rounds.append(node.message)
            if node.message == "done":
                return NOTHING
            return Decision(groups=(Group((Update(with_message(node, "done")),)),))

        made.fault_for(0.5, lag=(0.2, 0.2))
        node = made.memory.node(NodeID("n1"))
        assert node is not None
        async with leading(made, one_row(decide)):
            await made.commit.commit([Group((Update(with_message(node, "moved")),))])
            await asyncio.sleep(2)
        after = made.memory.node(NodeID("n1"))
        assert after is not None
        assert after.message == "done"
        assert rounds[0] == ""
        assert "moved" in rounds


async def test_what_the_store_refuses_is_decided_again_after_a_pause() -> None:
    times: list[float] = []

    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        times.append(asyncio.get_running_loop().time())
        if view.task(TaskID("t1")) is not None:
            return NOTHING
        return Decision(groups=(Group((Create(make_task("t1")),)),))

    async with stored() as made:
        await made.create(make_node("n1"))
        async with leading(made, one_row(decide)):
            made.fault_for(1.0, unavailable=1.0)
            await asyncio.sleep(3)
        assert isinstance(made.memory.task(TaskID("t1")), Task)
        assert len(times) > 3
        assert times[1] - times[0] >= RETRY_SECONDS


def with_message(node: Node, message: str) -> Node:
    return replace(node, message=message)


async def test_a_leader_that_is_none_any_more_does_not_ask_without_a_pause() -> None:
    """It may hear of that late; until then everything it writes clashes."""
    decided: list[datetime] = []

    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        del view, key
        decided.append(now)
        return Decision(groups=(Group((Create(make_task(ids.new())),)),))

    async with stored() as made:
        await made.create(make_node("n1"))
        async with leading(made, one_row(decide)):
            await made.kv.txn((), (DeleteRange(b"leader"),))
            async with asyncio.timeout(10):
                await asyncio.sleep(2)
        assert len(list(made.memory.tasks())) <= 1
        assert len(decided) <= 3 + 2 / RETRY_SECONDS


def poisoned(of: str, until: float = float("inf")) -> Decide:
    """Marks each node; raises on one of them, until a time."""

    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        seconds = (now - START).total_seconds()
        asked.append((key, seconds))
        if key == of and seconds < until:
            raise ZeroDivisionError("seven by nothing")
        node = view.node(NodeID(key))
        if node is None or node.joined_from:
            return NOTHING
        return Decision(groups=(Group((Update(replace(node, joined_from="10.0.0.9")),)),))

    asked: list[tuple[str, float]] = []
    decide.asked = asked  # type: ignore[attr-defined]
    return decide


def row_of_nodes(decide: Decide) -> tuple[Row, ...]:
    (row,) = one_row(decide)
    return (replace(row, place=troubles.NODE),)


async def test_a_decider_that_raises_on_one_key_keeps_no_other_waiting() -> None:
    decide = poisoned("n2")
    async with stored() as made:
        await made.create(*(make_node(node, joined_from="") for node in ("n1", "n2", "n3")))
        async with leading(made, row_of_nodes(decide)):
            await asyncio.sleep(30)
            await made.create(make_node("n4", joined_from=""))
            await asyncio.sleep(1)
        given = {str(node.id): node.joined_from for node in made.memory.nodes()}
        assert given == {"n1": "10.0.0.9", "n2": "", "n3": given["n1"], "n4": given["n1"]}
        times = [at for key, at in decide.asked if key == "n2"]  # type: ignore[attr-defined]
        assert 4 <= len(times) <= 8, "again and again, but less and less often"


async def test_users_read_that_a_decider_fails_until_it_does_no_more() -> None:
    decide = poisoned("n2", until=10)
    async with stored() as made:
        await made.create(make_node("n1", joined_from=""), make_node("n2", joined_from=""))
        async with leading(made, row_of_nodes(decide)):
            await asyncio.sleep(5)
            said = {str(node.id): node.message for node in made.memory.nodes()}
            assert said["n1"] == ""
            assert said["n2"] == (
                "internal error in row: ZeroDivisionError('seven by nothing');"
                " it is tried again"
            )
            await asyncio.sleep(60)
            assert {node.message for node in made.memory.nodes()} == {""}


async def test_a_new_leader_takes_away_what_the_one_before_said() -> None:
    async with stored() as made:
        await made.create(make_node("n1", message="internal error in row: it is tried again"))
        async with leading(made, row_of_nodes(poisoned("n2"))):
            await asyncio.sleep(1)
        assert [node.message for node in made.memory.nodes()] == [""]


async def test_what_cannot_be_written_keeps_no_other_waiting() -> None:
    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        node = view.node(NodeID(key))
        if node is None or node.message:
            return NOTHING
        said = "good" if key != "n1" else object()
        return Decision(groups=(Group((Update(with_message(node, said)),)),))  # type: ignore[arg-type]

    async with stored() as made:
        await made.create(make_node("n1"), make_node("n2"), make_node("n3"))
        async with leading(made, one_row(decide)):
            await asyncio.sleep(5)
        assert [node.message for node in made.memory.nodes()] == ["", "good", "good"]


async def test_an_event_that_no_row_can_read_wakes_every_key() -> None:
    seen: list[str] = []

    def wakes(event: Event, view: View) -> Iterable[str]:
        raise KeyError("nothing")

    def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
        seen.append(key)
        return NOTHING

    async with stored() as made:
        await made.create(make_node("n1"))
        row = Row("row", wakes, lambda view: [node.id for node in view.nodes()], decide)
        async with leading(made, (row,)):
            await asyncio.sleep(1)
            await made.create(make_node("n2"))
            await asyncio.sleep(1)
        assert seen == ["n1", "n1", "n2"]
