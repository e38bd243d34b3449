"""What the engine needs of its neighbours, as small protocols that it owns.

`agent.images.store.ImageStore` and `agent.network.host_network.HostNetwork` implement them;
`agent.__main__` puts them together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from agent.images.image import Image
from agent.network.desired import Attachment, Endpoint, PortBinding


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

    async def release_netns(self, container: str) -> None: ...

    async def detach(self, container: str) -> None: ...

    async def adopt(self, endpoints: Sequence[Endpoint]) -> None: ...

    async def reopen(self, container: str, netns: str) -> None: ...
