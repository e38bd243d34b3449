"""What the engine needs of its neighbours, as small protocols that it owns.

Implementations: images by `agent.images`, root file systems and specs by `agent.runtime.oci`,
wiring by `agent.network`, logs by `agent.logs`; put together in `agent.__main__`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agent.engine.records import Record
from agent.images.image import Image
from agent.network.desired import Endpoint, NetworkName, PortBinding


class Images(Protocol):
    """Images by whatever a person calls them, and holds on their layers."""

    async def find(self, text: str) -> Image:
        """The image meant by a name, an id or its start; `NotFound` without one."""
        ...

    async def acquire(self, image_id: str, holder: str) -> tuple[Path, ...]:
        """Lower directories, topmost first, kept until the holder releases them. Idempotent."""
        ...

    async def release(self, holder: str) -> None:
        """Let go of what a holder acquired. Idempotent."""
        ...


class RootFileSystems(Protocol):
    """Writable root file systems over layers. All calls are idempotent."""

    async def mount(self, container: str, layers: Sequence[Path]) -> Path:
        """The mounted root; what was written before is there again."""
        ...

    async def unmount(self, container: str) -> None:
        """Unmount; what was written stays."""
        ...

    async def remove(self, container: str) -> None:
        """Unmount and delete what was written."""
        ...


class Wiring(Protocol):
    """The network of containers; `agent.network.host_network.HostNetwork` is one."""

    async def attach(
        self, container: str, network: NetworkName, ports: Sequence[PortBinding] = ()
    ) -> Endpoint: ...

    async def release_netns(self, container: str) -> None: ...

    async def detach(self, container: str) -> None: ...

    async def adopt(self, endpoints: Sequence[Endpoint]) -> None: ...


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a container that its runtime specification depends on.

    Attributes:
        netns: path of the network namespace to join; empty for the host's.
        files: sources of /etc/hosts, /etc/hostname, /etc/resolv.conf by their destination.
        joins: namespace kind (`pid`, `ipc`, ...) -> pid of the process whose it joins.
    """

    record: Record
    rootfs: Path
    netns: str = ""
    files: Mapping[str, Path] = {}
    joins: Mapping[str, int] = {}


class ExecPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A process asked for in a running container."""

    command: tuple[str, ...]
    user: str = ""
    env: tuple[str, ...] = ()
    working_dir: str = ""
    terminal: bool = False
    privileged: bool = False
    console_size: tuple[int, int] = (0, 0)


class Specs(Protocol):
    """OCI documents out of Docker's words. May read the root file system (users, groups)."""

    async def container(self, prepared: Prepared) -> Mapping[str, Any]:
        """The complete runtime configuration."""
        ...

    async def process(self, record: Record, rootfs: Path, plan: ExecPlan) -> Mapping[str, Any]:
        """The OCI `process` object of an exec."""
        ...


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a log, newline included where the line is whole."""

    stream: int
    at: datetime
    stamp: str
    data: bytes


class Logs(Protocol):
    """What containers have written."""

    def read(
        self,
        directory: Path,
        *,
        follow: "bool",
        tail: int | None,
        since: datetime | None,
        until: datetime | None,
    ) -> AsyncIterator[LogLine]:
        """Lines of the log in a bundle's directory, oldest first; `tail` None for all."""
        ...
