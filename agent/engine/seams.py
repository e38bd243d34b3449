"""What the engine needs of its neighbours, as small protocols that it owns.

`agent.images.store.ImageStore` and `agent.network.host_network.HostNetwork` implement them;
`agent.__main__` puts them together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from agent.images.image import Image
from agent.network.desired import Attachment, Endpoint, PortBinding
from agent.network.local import LocalNetwork
from agent.network.views import NetworkView


class Images(Protocol):
    """Images by whatever a person calls them, and holds on their layers."""

    def find(self, text: str) -> Image:
        """The image meant by a name, an id or its start; `NotFound` without one."""
        ...

    def acquire(
        self, image_id: str, owner: str, running: Callable[[], bool] = lambda: True
    ) -> None:
        """Keep an image for a container until it is released; said again after a restart."""
        ...

    async def release(self, owner: str) -> None:
        """Let go. Idempotent."""
        ...

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        """Lower directories for an overlay, topmost first."""
        ...


class Wiring(Protocol):
    """The network of containers."""

    @property
    def network_names(self) -> Mapping[str, str]:
        """The names of the cluster's networks, by id, as far as this host is told of them."""
        ...

    def publishes(self, endpoint: Endpoint) -> bool:
        """Whether published ports of the cluster lead to it."""
        ...

    async def attach(
        self,
        container: str,
        attachments: Sequence[Attachment],
        ports: Sequence[PortBinding] = (),
        name_servers: Sequence[str] = (),
    ) -> Endpoint: ...

    async def connect(self, container: str, netns: str, attachment: Attachment) -> Endpoint: ...

    async def disconnect(self, container: str, netns: str, network: str) -> Endpoint: ...

    async def set_local(self, networks: Sequence[LocalNetwork]) -> None: ...

    async def probe(self, network: LocalNetwork) -> None: ...

    async def used_subnets(self) -> list[str]: ...

    async def release_netns(self, container: str) -> None: ...

    async def detach(self, container: str) -> None: ...

    async def adopt(self, endpoints: Sequence[Endpoint]) -> None: ...

    async def reopen(self, container: str, netns: str) -> None: ...


class ClusterPlace(msgspec.Struct, frozen=True, kw_only=True):
    """What managers gave a person's container on a cluster network.

    Attributes:
        task: what the place is given back by.
        network: id of the network; `name`: its name.
        addresses: with prefix length.
        internal: nothing leads out of the network.
    """

    task: str
    network: str
    name: str
    addresses: tuple[str, ...]
    mac: str
    internal: bool = False


class ClusterPlaces(Protocol):
    """Places on the cluster's attachable networks, as managers give them."""

    async def attach(
        self,
        network: str,
        container: str,
        name: str,
        aliases: Sequence[str],
        addresses: Sequence[str],
    ) -> ClusterPlace:
        """Have a place; asked again for the same container, the same one.

        The host's network knows the network when this returns. `network` is a name or an id,
        `addresses` are wanted, without prefix length.

        Raises:
            NotFound: no such network, or this host is in no cluster.
            PermissionDenied: it is not attachable.
            Unavailable: no manager could be asked.
        """
        ...

    async def detach(self, task: str) -> None:
        """Give a place back. Idempotent."""
        ...

    def held(self) -> Mapping[str, str]:
        """All places that containers of this host have: container by task."""
        ...


class LocalNames(Protocol):
    """Who answers names inside containers on this host's own networks."""

    async def change_local(self, views: Mapping[str, NetworkView]) -> None:
        """These are all networks of this host with names; containers have it on return."""
        ...
