"""Groups to transactions: merged, guarded, split by the limits, and known in the end."""

import asyncio

import pytest
from msgspec.structs import replace

from manager.store.codec import encode
from manager.store.commit import MAX_OPS, Commit, Outcome, Prepared, fold, merge, write
from manager.store.kv import Compare, ModRevisionIs, Op, OutcomeUnknown, Put, TxnResult
from manager.store.simulated import Faults
from shoal.model.changes import Create, Delete, Group, Update
from shoal.model.errors import Unavailable
from shoal.model.ids import NodeID, SecretID, ServiceID, TaskID
from shoal.model.objects import (
    Config,
    Endpoint,
    NodeReport,
    NodeSession,
    Secret,
    Service,
    ServiceVersion,
    TaskStatus,
)
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import ConfigReference, NetworkAttachmentConfig, SecretReference
from shoal.model.states import TaskState as S
from tests.builders import make_network, make_node, make_service, make_spec, make_task
from tests.unit.manager.store.stored import Stored, stored

pytestmark = pytest.mark.looptime


def published(identity: str, name: str, *ports: int) -> Service:
    """A service that holds ingress ports."""
    endpoint = Endpoint(
        ports=tuple(
            PortConfig(protocol="tcp", target_port=80, published_port=p, publish_mode="ingress")
            for p in ports
        )
    )
    return make_service(identity, make_spec(name=name), endpoint=endpoint)


def now_of(made: Stored, identity: str) -> Service:
    found = made.memory.service(ServiceID(identity))
    assert found is not None
    return found


# -- merging -----------------------------------------------------------------------------------


def test_groups_that_share_an_object_become_one() -> None:
    a, b, c = make_task("a"), make_task("b"), make_task("c")
    a2 = replace(a, desired_state=S.SHUTDOWN)
    merged = merge([Group((Create(a),)), Group((Update(b),)), Group((Update(a2), Update(c)))])
    assert merged == [((0, 2), (Create(a2), Update(c))), ((1,), (Update(b),))]


def test_a_chain_of_groups_is_merged_whole() -> None:
    a, b, c = make_task("a"), make_task("b"), make_task("c")
    groups = [
        Group((Update(a),)),
        Group((Update(b),)),
        Group((Update(c),)),
        Group((Update(b), Update(c))),
        Group((Update(a), Update(b))),
    ]
    ((origins, changes),) = merge(groups)
    assert origins == (0, 1, 2, 3, 4)
    assert [change.object.id for change in changes] == ["a", "b", "c"]


def test_what_is_made_and_unmade_at_once_never_was() -> None:
    task = make_task()
    assert fold((Create(task), Update(task), Delete(task))) == ()
    assert fold((Update(task), Delete(task))) == (Delete(task),)


# -- guards ------------------------------------------------------------------------------------


async def test_a_stale_change_clashes_and_nothing_of_its_group_is_written() -> None:
    async with stored() as made:
        await made.create(make_node("n1"), make_node("n2", subnet="10.128.2.0/24"))
        node = made.memory.node(NodeID("n1"))
        assert node is not None
        fresh = made.memory.node(NodeID("n2"))
        assert fresh is not None
        await made.write(Update(replace(node, message="first")))
        outcome = await made.write_groups(
            [
                Group((Update(replace(node, message="stale")), Create(make_service("s9")))),
                Group((Update(replace(fresh, message="fine")),)),
            ]
        )
        assert outcome.clashed == {0}
        assert made.memory.service(ServiceID("s9")) is None
        after = made.memory.node(NodeID("n2"))
        assert after is not None
        assert after.message == "fine"


async def test_what_a_group_needs_must_be_as_it_was() -> None:
    """The service's own change clashes, so what is to follow from it is not written either."""
    async with stored() as made:
        await made.create(make_service("s1"), make_node("n1"))
        service = made.memory.service(ServiceID("s1"))
        node = made.memory.node(NodeID("n1"))
        assert service is not None
        assert node is not None
        mine = Update(replace(service, pending_delete=True))
        slot = Group((Create(make_task("t1")),), needs=("s1",))
        both = await made.write_groups([Group((mine,)), slot, Group((Update(node),))])
        assert both.clashed == set(), "its own change in the same transaction is none of others"
        present = made.memory.service(ServiceID("s1"))
        assert present is not None
        made.kv.lag = (1.0, 1.0)
        await made.kv.txn((), (Put(b"shoal/service/s1", encode(service)),))
        mine = Update(replace(present, pending_delete=False))
        late = Group((Create(make_task("t2")),), needs=("s1",))
        clashed = await made.write_groups([Group((mine,)), late])
        assert clashed.clashed == {0, 1}
        assert made.memory.task(TaskID("t2")) is None


async def test_only_the_clashing_ones_of_many_groups_are_decided_again() -> None:
    async with stored() as made:
        await made.create(*(make_task(f"t{n}") for n in range(0, 8, 3)))
        groups = [Group((Create(make_task(f"t{n}")),)) for n in range(8)]
        assert (await made.write_groups(groups)).clashed == {0, 3, 6}
        assert len(list(made.memory.tasks())) == 8


async def test_names_and_ports_belong_to_one_object() -> None:
    async with stored() as made:
        await made.create(published("s1", "web", 80))
        outcome = await made.write_groups(
            [
                Group((Create(published("s2", "web")),)),
                Group((Create(published("s3", "api", 80)),)),
                Group((Create(published("s4", "api", 81)),)),
            ]
        )
        assert outcome.clashed == {0, 1}
        keys = await made.keys()
        assert {"shoal/name/service/web", "shoal/port/tcp/80", "shoal/port/tcp/81"} <= set(keys)
        await made.write(Delete(now_of(made, "s1")))
        assert "shoal/name/service/web" not in await made.keys()
        assert "shoal/port/tcp/80" not in await made.keys()


async def test_a_port_passes_from_one_service_to_another_in_one_commit() -> None:
    """etcd takes no key twice in one transaction; the two are written one after the other."""
    async with stored() as made:
        await made.create(published("s1", "one", 80), published("s2", "two"))
        endpoint = published("x", "x", 80).endpoint
        outcome = await made.write_groups(
            [
                Group((Update(replace(now_of(made, "s1"), endpoint=Endpoint())),)),
                Group((Update(replace(now_of(made, "s2"), endpoint=endpoint)),)),
            ]
        )
        assert not outcome.clashed
        holder = (await made.kv.range(b"shoal/port/tcp/80")).kvs[0]
        assert holder.value == b"s2"


async def test_what_is_referred_to_must_exist_and_stays() -> None:
    secret = Secret(id=SecretID("sec"), name="key")
    config = Config(id="con", name="conf")  # type: ignore[arg-type]
    network = make_network("net", name="back")
    refers = make_spec(
        secrets=(SecretReference(secret_id="sec"),), configs=(ConfigReference(config_id="con"),)
    )
    template = replace(refers.task_template, networks=(NetworkAttachmentConfig(target="net"),))
    service = make_service("s1", replace(refers, task_template=template))
    async with stored() as made:
        assert (await made.write(Create(service))).clashed == {0}
        await made.create(secret, config, network)
        await made.create(service)
        for thing in (made.memory.secret(secret.id), made.memory.network(network.id)):
            assert thing is not None
            assert (await made.write(Delete(thing))).clashed == {0}
        changed = replace(now_of(made, "s1"), spec=make_spec(), spec_version=2)
        assert not (await made.write(Update(changed))).clashed
        kept = made.memory.secret(secret.id)
        assert kept is not None
        assert not (await made.write(Delete(kept))).clashed


async def test_a_deleted_object_leaves_nothing_behind() -> None:
    async with stored() as made:
        await made.create(make_node("n1", key_digest="d1"), make_task("t1"), make_service("s1"))
        for key, part in {
            "status/t1": TaskStatus(),
            "describe/n1": NodeReport(),
            "session/n1": NodeSession(manager=NodeID("m1"), session="1"),
        }.items():
            await made.kv.txn((), (Put(f"shoal/{key}".encode(), encode(part)),))
        task, node = made.memory.task(TaskID("t1")), made.memory.node(NodeID("n1"))
        version = made.memory.versions_of_service(ServiceID("s1"))
        assert task is not None
        assert node is not None
        assert [one.number for one in version] == [1]
        await made.write(Delete(task), Delete(node), Delete(now_of(made, "s1")))
        assert await made.keys() == ["shoal/spec/s1/1"]
        (left,) = made.memory.versions_of_service(ServiceID("s1"))
        assert isinstance(left, ServiceVersion)
        await made.write(Delete(left))
        assert await made.keys() == []


async def test_a_leader_of_the_past_writes_nothing() -> None:
    async with stored() as made:
        elected = (await made.kv.txn((), (Put(b"leader", b"me"),))).revision
        commit = Commit(made.kv, made.memory, made.ids, (b"leader", elected))
        assert not (await commit.commit([Group((Create(make_task("t1")),))])).clashed
        await made.kv.txn((), (Put(b"leader", b"me again"),))
        assert not (await commit.commit([Group((Create(make_task("t2")),))])).clashed
        late = Commit(made.kv, made.memory, made.ids, (b"leader", elected - 1))
        groups = [Group((Create(make_task(f"x{n}")),)) for n in range(3)]
        assert (await late.commit(groups)).clashed == {0, 1, 2}


# -- limits and interruptions ------------------------------------------------------------------


class Recorder:
    """A store that takes some transactions: `answers` are used up, then all succeed."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.sent: list[tuple[Op, ...]] = []
        self._answers = list(answers)

    async def __call__(self, compares: tuple[Compare, ...], ops: tuple[Op, ...]) -> TxnResult:
        self.sent.append(ops)
        answer = self._answers.pop(0) if self._answers else True
        if isinstance(answer, Exception):
            raise answer
        return TxnResult(answer, 10 + len(self.sent))


def prepared(position: int, keys: int = 1, size: int = 1) -> Prepared:
    puts: list[Op] = [Put(f"{position}/{n}".encode(), b"x" * size) for n in range(keys)]
    return Prepared((position,), [ModRevisionIs(b"k", 0)], puts)


async def test_groups_are_packed_up_to_the_limits_and_never_split() -> None:
    store = Recorder()
    half = MAX_OPS // 2
    await write(store, (), [prepared(0, half), prepared(1, half), prepared(2, MAX_OPS + 1)])
    assert [len(ops) for ops in store.sent] == [2 * half, MAX_OPS + 1]
    store = Recorder()
    await write(store, (), [prepared(n, size=600_000) for n in range(3)])
    assert [len(ops) for ops in store.sent] == [2, 1]


async def test_nothing_is_no_transaction() -> None:
    store = Recorder()
    assert (await write(store, (), [])).revision == 0
    assert store.sent == []


async def test_a_store_that_takes_nothing_is_the_callers() -> None:
    with pytest.raises(Unavailable, match="gone"):
        await write(Recorder(Unavailable("gone")), (), [prepared(0)])


async def test_what_the_store_takes_no_more_is_decided_again() -> None:
    """The groups written before it stand, so the caller must wait for memory to show them."""
    store = Recorder(True, Unavailable("gone"))
    outcome = await write(store, (), [prepared(n, MAX_OPS) for n in range(3)])
    assert outcome == Outcome(11, frozenset({1, 2}))


async def test_half_of_a_clash_that_is_not_taken_is_decided_again() -> None:
    store = Recorder(False, True, Unavailable("gone"))
    outcome = await write(store, (), [prepared(n) for n in range(4)])
    assert outcome.clashed == {2, 3}


# -- what became of it -------------------------------------------------------------------------


async def test_a_write_whose_answer_hangs_is_found_to_have_happened() -> None:
    async with stored() as made:
        await made.create(make_task("t0"))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        made.fault_for(0.9, answer=(7.0, 7.0))
        outcome = await made.write(Create(make_task("t1")))
        assert loop.time() - begun < 1.5
        assert not outcome.clashed
        task = made.memory.task(TaskID("t1"))
        assert task is not None
        assert task.version == outcome.revision


async def test_a_write_that_is_late_never_happens_once_it_was_given_up() -> None:
    async with stored() as made:
        await made.create(make_task("t0"))
        made.fault_for(0.01, late_request=1.0, late=(3.0, 3.0))
        with pytest.raises(Unavailable) as caught:
            await made.write(Create(make_task("t1")))
        assert not isinstance(caught.value, OutcomeUnknown)
        await asyncio.sleep(5)
        assert made.memory.task(TaskID("t1")) is None


async def test_a_late_write_that_comes_before_it_is_given_up_counts() -> None:
    async with stored() as made:
        await made.create(make_task("t0"))
        made.fault_for(0.9, request=(0.01, 0.01), late=(0.5, 0.5))
        made.fault_for(0.015, late_request=1.0)
        loop = asyncio.get_running_loop()
        loop.call_later(0.015, setattr, made.etcd.faults, "unavailable", 1.0)
        loop.call_later(0.9, setattr, made.etcd.faults, "unavailable", 0.0)
        outcome = await made.write(Create(make_task("t1")))
        assert not outcome.clashed
        assert made.memory.task(TaskID("t1")) is not None


async def test_a_write_given_up_by_a_try_whose_own_answer_was_lost_stays_given_up() -> None:
    async with stored() as made:
        await made.create(make_task("t0"))
        made.fault_for(0.05, lost_request=1.0)
        made.fault_for(0.15, lost_answer=1.0)
        with pytest.raises(Unavailable, match="did not take a write in time"):
            await made.write(Create(make_task("t1")))
        assert made.memory.task(TaskID("t1")) is None


async def test_a_user_is_told_when_it_stays_unknown_and_a_leader_waits() -> None:
    async with stored() as made:
        await made.create(make_task("t0"))
        elected = (await made.kv.txn((), (Put(b"leader", b"me"),))).revision
        leads = Commit(made.kv, made.memory, made.ids, (b"leader", elected))
        await leads.commit([Group((Create(make_task("t1")),))])
        made.fault_for(60.0, lost_request=1.0)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(OutcomeUnknown, match="no answer within 5 s"):
            await made.commit.commit([Group((Create(make_task("t2")),))])
        assert loop.time() - begun == pytest.approx(5.0)
        with pytest.raises(Unavailable, match="did not take a write in time"):
            await leads.commit([Group((Create(make_task("t3")),))])
        assert loop.time() - begun > 59
        assert made.memory.task(TaskID("t3")) is None


async def test_ids_outlive_their_lease_by_a_new_one() -> None:
    async with stored() as made:
        await made.create(make_task("t0"))
        made.etcd.expire(0x694D_0000_0000_0001)
        assert not (await made.write(Create(make_task("t1")))).clashed
        await asyncio.sleep(700)
        assert not (await made.write(Create(make_task("t2")))).clashed


async def test_a_store_that_grants_no_lease_was_asked_for_nothing() -> None:
    async with stored() as made:
        made.etcd.faults = Faults(lost_request=1.0)
        with pytest.raises(Unavailable, match="did not grant a lease"):
            await made.write(Create(make_task("t1")))
        made.etcd.faults = Faults()
        assert made.memory.task(TaskID("t1")) is None
