"""Places of persons' containers on cluster networks: the engine's seam, on this host's cluster.

Asks `agent.swarm`, and waits until the host's network knows the network that the place is on.
Gives back, in the background, places that no container has any more.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from agent.attaching import Place, Wish
from agent.engine.seams import ClusterPlace
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.ids import TaskID

_log = structlog.get_logger(__name__)
_KNOWN_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_SWEEP_SECONDS = 10.0


class Cluster(Protocol):
    """What is asked of this host's cluster; `agent.swarm.HostCluster` is it."""

    async def attach_network(self, wish: Wish) -> Place: ...

    async def detach_network(self, task: TaskID) -> None: ...

    def places(self) -> Mapping[TaskID, str]: ...


class Wanted(Protocol):
    """Whose containers have places; `agent.engine.places.Places` is it."""

    def tasks(self) -> set[str]: ...


class HostPlaces:
    """`known` are the cluster networks that the host's network was told of, by id."""

    def __init__(self, cluster: Cluster, known: Callable[[], Mapping[str, str]]) -> None:
        self._cluster = cluster
        self._known = known

    async def attach(
        self,
        network: str,
        container: str,
        name: str,
        aliases: Sequence[str],
        addresses: Sequence[str],
    ) -> ClusterPlace:
        """Have a place; see the seam."""
        wish = Wish(
            network=network,
            container_id=container,
            container_name=name,
            aliases=tuple(aliases),
            addresses=tuple(addresses),
        )
        found = await self._cluster.attach_network(wish)
        try:
            async with asyncio.timeout(_KNOWN_SECONDS):
                while found.network.id not in self._known():  # noqa: ASYNC110 - told in turn
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            raise Unavailable(
                f"network {found.network.name} is not here yet; try again in a moment",
                retry_after=1.0,
            ) from error
        return ClusterPlace(
            task=found.task,
            network=found.network.id,
            name=found.network.name,
            addresses=found.place.addresses,
            mac=found.place.mac,
            internal=found.network.internal,
        )

    async def detach(self, task: str) -> None:
        """Give a place back."""
        await self._cluster.detach_network(TaskID(task))

    def held(self) -> Mapping[str, str]:
        """All places of containers of this host."""
        return {str(task): whose for task, whose in self._cluster.places().items()}

    async def run(self, places: Wanted) -> None:
        """Sweep, until cancelled."""
        lost: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            lost = await self.sweep(places, lost)

    async def sweep(self, places: Wanted, before: frozenset[str]) -> frozenset[str]:
        """Give back what nobody has now and had not `before`; what nobody has now.

        Twice in a row: who is being created has it soon.
        """
        lost = frozenset(self.held().keys() - places.tasks())
        for task in sorted(lost & before):
            try:
                await self.detach(task)
            except ClusterError as error:
                _log.warning("a place is not given back", task=task, reason=str(error))
        return lost
