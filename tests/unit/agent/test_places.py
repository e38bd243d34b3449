"""The sweep of places: what no container has, twice in a row, is given back."""

from collections.abc import Mapping

from agent.attaching import Place, Wish
from agent.places import HostPlaces
from shoal.model.errors import Unavailable
from shoal.model.ids import TaskID


class Cluster:
    """Places that managers hold for this host."""

    def __init__(self, *tasks: str) -> None:
        self.held = {TaskID(task): f"container of {task}" for task in tasks}
        self.away = False

    async def attach_network(self, wish: Wish) -> Place:
        raise Unavailable("nobody asks")

    async def detach_network(self, task: TaskID) -> None:
        if self.away:
            raise Unavailable("no manager answers")
        del self.held[task]

    def places(self) -> Mapping[TaskID, str]:
        return self.held


class Containers:
    def __init__(self, *tasks: str) -> None:
        self.wanted = {*tasks}

    def tasks(self) -> set[str]:
        return self.wanted


NOTHING: frozenset[str] = frozenset()


async def test_what_nobody_has_twice_in_a_row_is_given_back() -> None:
    cluster, containers = Cluster("used", "lost", "new"), Containers("used")
    places = HostPlaces(cluster, dict)
    lost = await places.sweep(containers, NOTHING)
    assert lost == {"lost", "new"}
    assert cluster.held.keys() == {"used", "lost", "new"}
    containers.wanted.add("new")  # its container was being made
    assert await places.sweep(containers, lost) == {"lost"}
    assert cluster.held.keys() == {"used", "new"}
    assert await places.sweep(containers, frozenset({"lost"})) == NOTHING


async def test_what_cannot_be_given_back_is_tried_again() -> None:
    cluster, containers = Cluster("a", "b"), Containers()
    places = HostPlaces(cluster, dict)
    cluster.away = True
    both = frozenset({"a", "b"})
    assert await places.sweep(containers, both) == both
    assert cluster.held.keys() == both
    cluster.away = False
    await places.sweep(containers, both)
    assert not cluster.held
