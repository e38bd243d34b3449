"""From the store's keys to whole objects: joined, told as events, kept equal to the store."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from manager.store import keys
from manager.store.codec import TaskRecord, decode, encode, encode_object
from manager.store.feed import RELIST_SECONDS
from manager.store.kv import DeleteRange, Put
from manager.store.memory import Entry, Memory
from shoal.model.changes import Delete, Event, Update
from shoal.model.errors import Internal
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import (
    Node,
    NodeReport,
    NodeSession,
    Service,
    ServiceVersion,
    StoredObject,
    Task,
    TaskStatus,
)
from shoal.model.states import TaskState as S
from tests.builders import (
    at,
    make_cluster,
    make_network,
    make_node,
    make_service,
    make_spec,
    make_task,
)
from tests.unit.manager.store.stored import stored


def entry(thing: StoredObject, revision: int) -> Entry:
    return Entry(keys.object_key(thing), encode_object(thing), revision)


def status(state: S, since: float = 9) -> bytes:
    return encode(TaskStatus(state=state, timestamp=at(since)))


def memory(*entries: Entry, revision: int = 5) -> Memory:
    made = Memory()
    made.apply(entries, revision)
    return made


SPEC = Entry(keys.spec_key("s1", 1), encode(make_spec()), 5)
T1 = TaskID("t1")


# -- joining -----------------------------------------------------------------------------------


def test_a_task_is_joined_with_its_spec_and_the_greater_observation() -> None:
    task = make_task(state=S.ASSIGNED)
    made = memory(entry(task, 5), SPEC)
    joined = made.task(T1)
    assert joined is not None
    assert (joined.service_spec, joined.version, joined.guard) == (make_spec(), 5, 5)
    made.apply([Entry(keys.status_key("t1"), status(S.RUNNING), 6)], 6)
    running = made.task(T1)
    assert running is not None
    assert (running.status.state, running.version, running.guard) == (S.RUNNING, 6, 5)
    assert running.updated_at == at(9)
    orphaned = replace(task, status=TaskStatus(state=S.ORPHANED))
    made.apply([entry(orphaned, 7)], 7)
    lost = made.task(T1)
    assert lost is not None
    assert lost.status.state is S.ORPHANED
    made.apply([Entry(keys.object_key(task), None, 8)], 8)
    assert made.task(T1) is None
    made.apply([Entry(keys.status_key("t1"), None, 9)], 9)
    assert made.task(T1) is None


def test_of_two_equal_observations_the_agents_is_taken() -> None:
    made = memory(
        entry(make_task(), 5), SPEC, Entry(keys.status_key("t1"), status(S.RUNNING), 5)
    )
    task = made.task(T1)
    assert task is not None
    assert task.status.timestamp == at(9)


def test_a_status_without_its_task_is_nothing_yet() -> None:
    made = memory(Entry(keys.status_key("t1"), status(S.RUNNING), 5))
    assert list(made.tasks()) == []
    task = memory(entry(make_task(), 5)).task(T1)
    assert task is not None
    assert task.service_spec.name == "", "its spec is gone; the task still is"


def test_a_node_is_joined_of_three_parts() -> None:
    node = make_node()
    assert node.description is not None
    report = NodeReport(
        description=node.description, addr="10.9.0.7", data_path_addr="10.8.0.7"
    )
    session = NodeSession(manager=NodeID("m1"), session="1")
    made = memory(
        Entry(keys.describe_key("n1"), encode(report), 4),
        Entry(keys.session_key("n1"), encode(session), 5),
    )
    assert list(made.nodes()) == []
    made.apply([entry(node, 6)], 6)
    (joined,) = made.nodes()
    assert (joined.addr, joined.data_path_addr) == ("10.9.0.7", "10.8.0.7")
    assert (joined.description, joined.session) == (node.description, session)
    made.apply([Entry(keys.session_key("n1"), None, 7)], 7)
    (gone,) = made.nodes()
    assert (gone.session, gone.guard) == (None, 6)


def test_specs_services_and_the_cluster() -> None:
    made = memory(entry(make_service("s1"), 5), SPEC, entry(make_cluster(), 5))
    (version,) = made.versions_of_service(ServiceID("s1"))
    assert (version.number, version.guard) == (1, 5)
    assert made.cluster() is not None
    (service,) = made.services()
    assert (service.version, service.guard) == (5, 5)
    made.apply(
        [
            Entry(SPEC.key, None, 6),
            Entry(keys.object_key(service), None, 6),
            Entry(keys.CLUSTER, None, 6),
        ],
        6,
    )
    assert made.cluster() is None
    assert list(made.services()) == []
    assert list(made.versions_of_service(ServiceID("s1"))) == []
    assert made.apply([Entry(keys.CLUSTER, None, 7)], 7) == ()


def test_keys_of_other_kinds_are_passed_over() -> None:
    made = memory(Entry(keys.name_key("service", "web"), b"s1", 5))
    assert made.part(keys.name_key("service", "web")) is None
    assert made.keys_below("shoal/") == []


def test_keys_are_listed_in_order() -> None:
    made = memory(entry(make_task("t2"), 5), entry(make_task("t1"), 5), SPEC)
    assert made.keys_below("shoal/task/") == ["shoal/task/t1", "shoal/task/t2"]


# -- events and waiting ------------------------------------------------------------------------


def test_listeners_hear_whole_revisions() -> None:
    made = Memory()
    heard: list[Sequence[Event]] = []
    stop = made.listen(heard.append)
    task = make_task(state=S.ASSIGNED)
    made.apply([entry(task, 5), SPEC, entry(make_node(), 5)], 5)
    assert isinstance(heard[0][0].object, ServiceVersion)
    assert {type(event.object) for event in heard[0][1:]} == {Task, Node}
    made.apply([], 6)
    assert len(heard) == 1
    stop()
    made.apply([entry(make_task("t2"), 7)], 7)
    assert len(heard) == 1
    assert made.revision == 7


def test_a_full_list_tells_the_difference() -> None:
    made = memory(
        entry(make_node("n1"), 3), entry(make_node("n2"), 4), entry(make_node("n3"), 5)
    )
    heard: list[Sequence[Event]] = []
    made.listen(heard.append)
    changed = replace(make_node("n2"), message="new")
    made.reset([entry(make_node("n1"), 3), entry(changed, 8), entry(make_node("n4"), 9)], 9)
    (events,) = heard
    assert sorted(event.object.id for event in events) == ["n2", "n3", "n4"]
    assert [node.id for node in made.nodes()] == ["n1", "n2", "n4"]


async def test_waiting_for_a_revision() -> None:
    made = memory(revision=5)
    await made.reached(5)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(made.reached(6))
        second = group.create_task(made.reached(8))
        given_up = group.create_task(made.reached(7))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        made.advance(7)
        await asyncio.sleep(0)
        assert first.done()
        assert not second.done()
        made.apply([], 8)
    made.advance(3)
    assert made.revision == 8


def test_epochs_only_grow() -> None:
    made = Memory()
    for epoch in (4, 9, 7):
        made.learn_epoch(epoch)
    assert made.epoch == 9


# -- the codec ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing",
    [
        make_task(generic_resources=(), job_iteration=2, start_after=at(3), reason="why"),
        make_service(spec_version=7),
        make_cluster(sealed=b"\x00\xff"),
        make_network("net", name="net"),
    ],
)
def test_there_and_back(thing: StoredObject) -> None:
    made = memory(entry(thing, 5), SPEC)
    found = made.find(thing.id)
    assert found is not None
    assert replace(found, version=1, guard=1) == replace(thing, version=1, guard=1)


def test_a_record_holds_nothing_of_other_writers() -> None:
    record = encode_object(make_node())
    assert b"session" not in record
    assert b"description" not in record
    assert b"guard" not in record
    assert b"service_spec" not in encode_object(make_task())


def test_a_record_that_cannot_be_read_is_our_fault() -> None:
    with pytest.raises(Internal, match="a stored TaskRecord cannot be read"):
        decode(b"{}", TaskRecord)


def test_a_newer_field_is_passed_over() -> None:
    record = encode_object(make_service()).replace(b"{", b'{"from_the_future":1,', 1)
    assert decode(record, Service).id == "s1"


# -- memory is what the keys say, whatever came before -----------------------------------------

writes = st.lists(
    st.tuples(
        st.sampled_from(["task", "status", "node", "describe", "session", "service"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([S.NEW, S.ASSIGNED, S.RUNNING, S.FAILED]),
        st.booleans(),
    ),
    max_size=30,
)


def record(kind: str, name: str, state: S) -> tuple[str, bytes]:
    owner = make_service("s1")
    found: dict[str, tuple[str, bytes]] = {
        "task": (
            f"shoal/task/{name}",
            encode_object(make_task(name, owner, state=state, node="na", slot=len(name))),
        ),
        "status": (f"shoal/status/{name}", status(state)),
        "node": (f"shoal/node/n{name}", encode_object(make_node(f"n{name}"))),
        "describe": (f"shoal/describe/n{name}", encode(NodeReport(addr=state.name))),
        "session": (
            f"shoal/session/n{name}",
            encode(NodeSession(manager=NodeID("m"), session=state.name)),
        ),
        "service": (
            f"shoal/service/s{name}",
            encode_object(make_service(f"s{name}", make_spec(name=name))),
        ),
    }
    return found[kind]


@given(writes)
def test_step_by_step_and_all_at_once_come_to_the_same(
    steps: Sequence[tuple[str, str, S, bool]],
) -> None:
    """Also the totals and every index, which are kept by difference.

    A spec never changes and is there before the tasks made from it.
    """
    by_step = memory(SPEC)
    present: dict[str, Entry] = {SPEC.key: SPEC}
    for revision, (kind, name, state, deleted) in enumerate(steps, 6):
        key, value = record(kind, name, state)
        one = Entry(key, None if deleted else value, revision)
        by_step.apply([one], revision)
        if deleted:
            present.pop(key, None)
        else:
            present[key] = one
    at_once = Memory()
    at_once.reset(present.values(), len(steps) + 5)
    assert list(by_step.tasks()) == list(at_once.tasks())
    for seen, listed in zip(by_step.nodes(), at_once.nodes(), strict=True):
        # a list does not tell since when a spec stands: later at worst, never earlier
        assert seen.spec_since <= listed.spec_since
        assert replace(seen, spec_since=listed.spec_since) == listed
    assert list(by_step.services()) == list(at_once.services())
    assert list(by_step.pending_tasks()) == list(at_once.pending_tasks())
    assert by_step.totals(NodeID("na")) == at_once.totals(NodeID("na"))
    assert by_step.tasks_of_node(NodeID("na")) == at_once.tasks_of_node(NodeID("na"))
    assert by_step.keys_below("") == at_once.keys_below("")


# -- the feed ----------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_the_feed_follows_what_others_write_and_learns_epochs() -> None:
    async with stored() as made:
        await made.kv.txn((), (Put(keys.LEADER_KEY, b"m1"),))
        await made.create(make_node("n1"))
        assert made.memory.epoch == 2
        node = made.memory.node(NodeID("n1"))
        assert node is not None
        await made.write(Update(replace(node, message="x")))
        await made.write(Delete(made.memory.node(NodeID("n1")) or node))
        assert made.memory.node(NodeID("n1")) is None
        revision = (await made.kv.txn((), (DeleteRange(keys.LEADER_KEY),))).revision
        await made.memory.reached(revision)
        assert made.memory.epoch == 2


@pytest.mark.looptime
async def test_the_feed_goes_on_after_the_watch_broke() -> None:
    async with stored() as made:
        made.fault_for(3.0, broken_watch=1.0)
        await made.kv.txn((), (Put(b"shoal/node/n1", encode_object(make_node("n1"))),))
        await asyncio.sleep(2)
        assert made.memory.node(NodeID("n1")) is None
        await asyncio.sleep(5)
        assert made.memory.node(NodeID("n1")) is not None


@pytest.mark.looptime
async def test_the_feed_lists_again_when_history_is_gone_and_now_and_then() -> None:
    async with stored() as made:
        await made.create(make_node("n1"), make_node("n2", subnet="10.128.2.0/24"))
        made.kv.reachable = False
        other = made.etcd.client()
        await other.txn((), (DeleteRange(b"shoal/node/n1"),))
        revision = (await other.txn((), (Put(b"unrelated", b"x"),))).revision
        await other.compact(revision)
        made.kv.reachable = True
        await asyncio.sleep(3)
        assert [node.id for node in made.memory.nodes()] == ["n2"]
        assert made.memory.revision == revision
        await asyncio.sleep(RELIST_SECONDS + 1)
        await made.create(make_node("n3", subnet="10.128.3.0/24"))


@pytest.mark.looptime
async def test_the_feed_waits_for_a_store_that_does_not_answer() -> None:
    async with stored() as made:
        made.etcd.quorum = False
        await asyncio.sleep(RELIST_SECONDS + 20)
        made.etcd.quorum = True
        await asyncio.sleep(5)
        await made.create(make_node("n1"))
