import asyncio

import pytest
from typing_extensions import override

from manager.control.writing import Writer
from manager.store import kv
from manager.store.simulated import SimulatedKV
from shoal.common.entropy import SystemIds
from shoal.model.changes import Create, Group, Update
from shoal.model.errors import AlreadyExists, Unavailable
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import ContainerSpec, TaskSpec
from tests.builders import make_service
from tests.unit.manager.api.serving import Cell, cell

pytestmark = pytest.mark.looptime

SPEC = ServiceSpec(name="web", task_template=TaskSpec(container_spec=ContainerSpec(image="a")))


async def with_lease(made: Cell) -> None:
    """The first write gets the lease, so that the next one's only mutation is its own."""
    first = ServiceSpec(name="first", task_template=SPEC.task_template)
    await made.operations.services.create(first)


async def test_a_lost_answer_is_looked_up() -> None:
    async with cell() as made:
        await with_lease(made)
        made.etcd.faults.lost_answer = 1.0
        identity = await made.operations.services.create(SPEC)
        made.etcd.faults.lost_answer = 0.0
        assert made.memory.service(identity) is not None
        with pytest.raises(AlreadyExists):
            await made.operations.services.create(SPEC)


async def test_a_lost_request_is_not_said_to_have_happened() -> None:
    async with cell() as made:
        await with_lease(made)
        made.etcd.faults.lost_request = 1.0
        with pytest.raises(Unavailable, match="did not confirm"):
            await made.operations.services.create(SPEC)
        made.etcd.faults.lost_request = 0.0
        assert made.memory.service_named("web") is None


async def test_a_write_given_up_is_decided_again() -> None:
    """As when Raft's leader dies with the request: the user waits a moment and is served."""
    async with cell() as made:
        await with_lease(made)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        made.etcd.faults.lost_request = 1.0
        loop.call_later(2.0, setattr, made.etcd.faults, "lost_request", 0.0)
        identity = await made.operations.services.create(SPEC)
        assert loop.time() - begun < 2.5
        assert made.memory.service(identity) is not None


async def test_an_answer_that_hangs_is_not_waited_for() -> None:
    """What etcd was asked as it lost its Raft leader it answers after 6 to 7 s or never."""
    async with cell() as made:
        await with_lease(made)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        made.etcd.faults.answer = (6.7, 6.7)
        loop.call_later(0.9, setattr, made.etcd.faults, "answer", (0.0, 0.0))
        identity = await made.operations.services.create(SPEC)
        assert loop.time() - begun < 1.5
        assert made.memory.service(identity) is not None


class Refusing(SimulatedKV):
    """A client whose writes the store refuses."""

    @override
    async def txn(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...] = (),
    ) -> kv.TxnResult:
        raise Unavailable("the store says: too many requests")


async def test_a_store_that_takes_no_write_says_so() -> None:
    async with cell() as made:
        store = Refusing(made.etcd)
        writer = Writer(store, made.memory, made.barrier, SystemIds())
        with pytest.raises(Unavailable, match="too many requests"):
            await writer.write(lambda: (Group((Create(make_service("s1")),)), None))


async def test_nothing_to_change_is_not_written() -> None:
    async with cell() as made:
        writer = Writer(Refusing(made.etcd), made.memory, made.barrier, SystemIds())
        assert await writer.write(lambda: (Group(()), "as it is")) == "as it is"


async def test_an_object_that_never_holds_still_is_given_up() -> None:
    async with cell() as made:
        writer = Writer(made.kv, made.memory, made.barrier, SystemIds())
        stale = make_service("s1", guard=999)
        with pytest.raises(Unavailable, match="change too often"):
            await writer.write(lambda: (Group((Update(stale),)), None))
