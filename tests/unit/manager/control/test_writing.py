import pytest

from shoal.model.errors import AlreadyExists, Unavailable
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import ContainerSpec, TaskSpec
from tests.unit.manager.api.serving import Cell, cell

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
