"""Containers' places on networks: taken before a start, changed in a run, given back after it.

Places on this host's networks are given by the host's network. Those on cluster networks are
the managers' to give: one is asked for when the container is created or connected, asked for
again at each start (the answer is the same place), and given back at its end.
"""

import structlog
from msgspec.structs import replace

from agent.engine import own_files
from agent.engine.container import Container
from agent.engine.joining import (
    OF_HOST,
    PRIVATE,
    SHARED,
    check_settings,
    link_local_addresses,
    needs_gateway,
    wanted_addresses,
)
from agent.engine.networks import DRIVERS, HostNetworks
from agent.engine.records import Joined, Record
from agent.engine.seams import ClusterPlace, ClusterPlaces, LocalNames, Wiring
from agent.network.desired import BRIDGE, MESH, Attachment, Endpoint
from agent.network.views import NetworkView, local_view
from agent.network.zones import Host
from shoal.model.container import EndpointSettings
from shoal.model.errors import ClusterError, InvalidArgument, NotFound, PermissionDenied

_log = structlog.get_logger(__name__)
_GATEWAY = Attachment(network=MESH)
_OVERLAY = "overlay"
_ID = 12


class Places:
    """All places of persons' containers.

    Attributes:
        cluster: the managers; None outside of a cluster.
        names: who answers names on this host's networks; None where nobody does.
    """

    def __init__(self, networks: HostNetworks, wiring: Wiring) -> None:
        self._networks = networks
        self._wiring = wiring
        self.cluster: ClusterPlaces | None = None
        self.names: LocalNames | None = None

    async def resolve(
        self, text: str, settings: EndpointSettings, container: str, name: str
    ) -> Joined:
        """The network meant, with a place on it where managers give it.

        Raises:
            NotFound: there is none.
            PermissionDenied: it is a cluster network that is not attachable.
        """
        found = self._networks.find(text)
        if found is None:
            if self.cluster is None:
                raise NotFound(f"network {text} not found")
            check_settings(text, settings)
            return await self._in_cluster(self.cluster, text, settings, container, name)
        identity, known = found
        if known in DRIVERS and known != BRIDGE:
            raise InvalidArgument(PRIVATE if known == "none" else OF_HOST)
        check_settings(known, settings)
        network = BRIDGE if known == BRIDGE else identity
        return Joined(network=network, name=known, settings=settings)

    async def attachments(self, container: Container) -> tuple[Attachment, ...]:
        """What the host's network is asked for at a start."""
        found, joined = [], []
        for wanted in container.record.networks:
            each = wanted if wanted.network else await self._sought(container.record, wanted)
            attachment, known = await self._attachment(container.record, each)
            found.append(attachment)
            joined.append(known)
        if container.record.joined:
            container.change(joined=tuple(joined))
        if needs_gateway(joined, self._leading()):
            found.append(_GATEWAY)
        return tuple(found)

    async def _sought(self, record: Record, wanted: Joined) -> Joined:
        """A network that was not there when the container was made."""
        try:
            return await self.resolve(wanted.name, wanted.settings, record.id, record.name)
        except NotFound as error:
            raise NotFound(f"failed to set up container networking: {error}") from error

    async def started(self, container: Container) -> None:
        """It has its places, and its first process is about to run."""
        await self.tell_names()
        self._publish_all("connect", container)

    async def release(self, container: Container, *, was: Endpoint | None) -> None:
        """After a run: places that managers gave go back to them."""
        if container.record.network not in ("bridge", "joined"):
            return
        if was is not None:
            self._publish_all("disconnect", container)
        await self.give_back(container.record.joined)
        if any(each.task for each in container.record.joined):
            joined = tuple(replace(each, task="") for each in container.record.joined)
            container.change(joined=joined)
        await self.tell_names()

    async def give_back(self, joined: tuple[Joined, ...]) -> None:
        """Tell managers that places are free; what cannot be told is swept later."""
        for each in joined:
            if each.task and self.cluster is not None:
                try:
                    await self.cluster.detach(each.task)
                except ClusterError as error:
                    _log.warning(
                        "place not given back yet", network=each.name, reason=str(error)
                    )

    # -- a person's wishes ---------------------------------------------------------------

    async def connect(self, container: Container, text: str, asked: EndpointSettings) -> None:
        """Put a container on one more network, at once if it runs.

        Raises:
            PermissionDenied: it is on it, or is a task's.
            InvalidArgument: it has no networks of its own.
        """
        async with container.lock:
            record = container.record
            _check_changeable(container)
            joined = await self.resolve(text, asked, record.id, record.name)
            if any(each.network == joined.network for each in record.networks):
                raise PermissionDenied(
                    f"endpoint with name {record.name} already exists in network {joined.name}"
                )
            try:
                if record.state.running:
                    await self._join(container, joined)
            except BaseException:
                await self.give_back((joined,))
                raise
            container.change(network="joined", joined=(*record.networks, joined))
            if record.state.running:
                await self._settle_gateway(container)
                await own_files.follow(container)
        await self.tell_names()
        self._publish("connect", container, joined)

    async def disconnect(self, container: Container, text: str) -> None:
        """Take a container off a network, at once if it runs.

        Raises:
            PermissionDenied: it is not on it, or is a task's.
        """
        async with container.lock:
            record = container.record
            _check_changeable(container)
            left = self._joined(record, text)
            rest = tuple(each for each in record.networks if each is not left)
            container.change(network="joined", joined=rest)
            endpoint = record.endpoint
            if record.state.running and endpoint is not None and endpoint.on(left.network):
                path = _netns(container)
                now = await self._wiring.disconnect(container.id, path, left.network)
                container.change(endpoint=now)
                await self._settle_gateway(container)
                await own_files.follow(container)
            await self.give_back((left,))
        await self.tell_names()
        self._publish("disconnect", container, left)

    def _joined(self, record: Record, text: str) -> Joined:
        found = self._networks.find(text)
        wanted = {text} if found is None else {*found}
        for each in record.networks:
            if each.name in wanted or each.network in wanted:
                return each
        matches = [each for each in record.networks if each.network.startswith(text)]
        if len(matches) == 1:
            return matches[0]
        if found is None:
            raise NotFound(f"network {text} not found")
        raise PermissionDenied(f"container {record.id} is not connected to network {text}")

    async def _join(self, container: Container, joined: Joined) -> None:
        attachment, _ = await self._attachment(container.record, joined)
        endpoint = await self._wiring.connect(container.id, _netns(container), attachment)
        container.change(endpoint=endpoint)

    async def _settle_gateway(self, container: Container) -> None:
        """The gateway network is there while nothing else leads out of cluster networks."""
        endpoint = container.record.endpoint
        if endpoint is None:
            return
        needed = needs_gateway(container.record.networks, self._leading())
        if needed == (endpoint.on(MESH) is not None):
            return
        path = _netns(container)
        if needed:
            endpoint = await self._wiring.connect(container.id, path, _GATEWAY)
        else:
            endpoint = await self._wiring.disconnect(container.id, path, MESH)
        container.change(endpoint=endpoint)

    # -- one place -----------------------------------------------------------------------

    async def _attachment(self, record: Record, joined: Joined) -> tuple[Attachment, Joined]:
        settings = joined.settings
        link_local = link_local_addresses(settings)
        if not joined.in_cluster:
            if joined.network != BRIDGE and self._networks.get(joined.network) is None:
                raise NotFound(f"network {joined.name} not found")
            wanted = wanted_addresses(settings)
            mac = settings.mac_address
            attachment = Attachment(
                network=joined.network, addresses=wanted, mac=mac, link_local=link_local
            )
            return attachment, joined
        if self.cluster is None:
            raise NotFound(f"network {joined.name} not found")
        place = await self._place(
            self.cluster, joined.network, settings, record.id, record.name
        )
        attachment = Attachment(
            network=place.network,
            addresses=place.addresses,
            mac=place.mac,
            link_local=link_local,
        )
        return attachment, replace(joined, task=place.task)

    async def _in_cluster(
        self,
        cluster: ClusterPlaces,
        text: str,
        settings: EndpointSettings,
        container: str,
        name: str,
    ) -> Joined:
        place = await self._place(cluster, text, settings, container, name)
        return Joined(
            network=place.network,
            name=place.name,
            settings=settings,
            task=place.task,
            in_cluster=True,
            internal=place.internal,
        )

    async def _place(
        self,
        cluster: ClusterPlaces,
        network: str,
        settings: EndpointSettings,
        container: str,
        name: str,
    ) -> ClusterPlace:
        aliases = (*settings.aliases, container[:_ID])
        wanted = wanted_addresses(settings)
        return await cluster.attach(network, container, name, aliases, wanted)

    def _leading(self) -> set[str]:
        made = (each.network for each in self._networks)
        return {BRIDGE, *(each.id for each in made if not each.internal)}

    # -- who wants to know ---------------------------------------------------------------

    def views(self) -> dict[str, NetworkView]:
        """The names on each of the users' networks of this host."""
        return {
            made.id: local_view(
                made.name,
                [
                    host
                    for each in self._networks.users_of(made.id)
                    if (host := _host(each, made.id)) is not None
                ],
                [pool.subnet for pool in made.network.pools],
            )
            for made in self._networks
        }

    def tasks(self) -> set[str]:
        """What stands for containers of this host on cluster networks."""
        return {task for each in self._networks.containers for task in _tasks(each)}

    async def tell_names(self) -> None:
        """Have the names of this host's networks answered as they are now."""
        if self.names is not None:
            await self.names.change_local(self.views())

    def _publish_all(self, action: str, container: Container) -> None:
        for each in container.record.networks:
            self._publish(action, container, each)

    def _publish(self, action: str, container: Container, joined: Joined) -> None:
        made = self._networks.get(joined.network)
        kind = made.network.driver if made is not None else BRIDGE
        identity = joined.network
        if joined.network == BRIDGE:
            identity = self._networks.builtin[BRIDGE]
        self._networks.publish(
            action,
            identity,
            joined.name,
            _OVERLAY if joined.in_cluster else kind,
            container=container.id,
        )


def _tasks(container: Container) -> list[str]:
    return [each.task for each in container.record.joined if each.task]


def _host(container: Container, network: str) -> Host | None:
    """What a container is called on a network, while it has a place there."""
    record = container.record
    place = record.endpoint.on(network) if record.endpoint is not None else None
    if place is None:
        return None
    settings = next(each.settings for each in record.networks if each.network == network)
    names = dict.fromkeys((record.name, *settings.aliases, record.id[:_ID]))
    addresses = tuple(each.partition("/")[0] for each in place.addresses)
    return Host(names=tuple(names), addresses=addresses)


def _check_changeable(container: Container) -> None:
    record = container.record
    if container.removed or record.state.status in ("removing", "dead"):
        raise PermissionDenied(
            f"Container {record.id} is marked for removal and cannot be connected or"
            " disconnected to the network"
        )
    if record.owner:
        raise PermissionDenied(
            f"container {record.name} is a task's: its networks are those of its service"
            " (docker service update --network-add)"
        )
    if record.network == "none":
        raise InvalidArgument(PRIVATE)
    if record.network in ("host", "container"):
        raise InvalidArgument(SHARED)


def _netns(container: Container) -> str:
    return f"/proc/{container.state.pid}/ns/net"
