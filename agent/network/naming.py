"""Who answers names and virtual IPs inside containers, as the host's network calls it.

`ContainerNaming` puts `container_names` behind it: the cluster's networks become views, a
container's interfaces the networks it asks in.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Protocol

import structlog

from agent.network.container_names import ContainerNames, DescriptorKeeper, Resolving
from agent.network.desired import ClusterNetworks, Endpoint
from agent.network.views import ClusterViews, NetworkView
from shoal.model.errors import ClusterError, Internal, Unavailable

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = 1.0
_CLUSTER, _HOST = "cluster", "host"


class Naming(Protocol):
    """Names and virtual IPs of the containers of this host. Errors fail what called it."""

    async def opened(self, endpoint: Endpoint, netns: str) -> None:
        """A container is on these networks; `netns` is the path of its namespace.

        Said before its first process runs, and again when it joins or leaves a network.
        """
        ...

    async def reopened(self, endpoint: Endpoint, netns: str) -> None:
        """After a restart of the agent: what stands in the namespace is to be taken over.

        The container runs, whatever happens here: what fails is tried again.
        """
        ...

    async def closed(self, container: str) -> None:
        """The container is about to be gone. Idempotent."""
        ...

    async def changed(self, networks: ClusterNetworks) -> None:
        """What managers say of the cluster networks; returns when all containers have it."""
        ...


class ContainerNaming:
    """Names by `ContainerNames`, for containers on networks that have them."""

    def __init__(self, names: ContainerNames) -> None:
        self._names = names
        self._views = ClusterViews()
        self._open: set[str] = set()
        self._late: dict[str, tuple[Endpoint, str]] = {}

    async def opened(self, endpoint: Endpoint, netns: str) -> None:
        container, networks = endpoint.container, endpoint.named_networks
        self._late.pop(container, None)
        resolving = Resolving(
            servers=endpoint.name_servers, external=bool(endpoint.outward.gateways)
        )
        if container in self._open:
            await self._names.set_networks(container, networks, resolving)
            return
        if not networks:
            return
        try:
            descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Internal(f"the namespace of container {container} is gone") from error
        try:
            await self._names.open(container, descriptor, networks, resolving)
        finally:
            os.close(descriptor)
        self._open.add(container)

    async def reopened(self, endpoint: Endpoint, netns: str) -> None:
        try:
            await self.opened(endpoint, netns)
        except ClusterError as error:
            _log.warning("no names yet", container=endpoint.container, reason=str(error))
            self._late[endpoint.container] = (endpoint, netns)

    async def closed(self, container: str) -> None:
        self._late.pop(container, None)
        self._open.discard(container)
        await self._names.close(container)

    async def changed(self, networks: ClusterNetworks) -> None:
        await self._change(_CLUSTER, self._views.update(networks))

    async def change_local(self, views: Mapping[str, NetworkView]) -> None:
        """The networks of this host that have names; all containers have it on return."""
        await self._change(_HOST, views)

    async def _change(self, source: str, views: Mapping[str, NetworkView]) -> None:
        if failed := await self._names.change(source, views):
            raise Unavailable("; ".join(failed))

    async def run(self) -> None:
        """Answer, repair, and try again what failed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._names.run(), name="answers")
            while True:
                await asyncio.sleep(_RETRY_SECONDS)
                for endpoint, netns in list(self._late.values()):
                    if endpoint.container in self._late:
                        await self.reopened(endpoint, netns)


class Keeping:
    """Has the host process keep descriptors, as far as there is one that can.

    A copy that it has not costs names for the time of the agent's next restart; no container
    fails for that.
    """

    def __init__(self, keeper: DescriptorKeeper | None) -> None:
        self._keeper = keeper

    async def keep_descriptor(self, name: str, descriptor: int) -> None:
        if self._keeper is None:
            return
        try:
            await self._keeper.keep_descriptor(name, descriptor)
        except ClusterError as error:
            _log.warning("a descriptor is not kept", name=name, reason=str(error))

    async def drop_descriptor(self, name: str) -> None:
        if self._keeper is None:
            return
        try:
            await self._keeper.drop_descriptor(name)
        except ClusterError as error:
            _log.warning("a descriptor is kept too long", name=name, reason=str(error))
