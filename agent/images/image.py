"""What an image is to the rest of the agent: values only, no store behind them.

Pure. Shapes follow the Docker image configuration and the OCI distribution documents; keys that
Shoal has no use for are dropped on reading, because the stored blob keeps them. Made by
`agent.images.store`; read by the engine (container defaults), the API and the runtime.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from typing_extensions import override

from shoal.model.errors import InvalidArgument


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The image's own health check; durations in nanoseconds, as Docker stores them."""

    test: tuple[str, ...] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Defaults for containers of the image. `None` and empty mean the same: not said."""

    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    working_dir: str | None = None
    exposed_ports: Mapping[str, Any] | None = None
    volumes: Mapping[str, Any] | None = None
    labels: Mapping[str, str] | None = None
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] | None = None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One build step. Empty layers have no entry among the layers."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers, lowest first, by the digest of their uncompressed archive."""

    type: str = "layers"
    diff_ids: tuple[str, ...] | None = None


class ImageDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration blob as it is stored; its digest is the image's id."""

    architecture: str = ""
    os: str = ""
    variant: str | None = None
    os_version: str | None = msgspec.field(name="os.version", default=None)
    created: str | None = None
    author: str | None = None
    comment: str | None = None
    config: ImageConfig | None = None
    rootfs: RootFS = RootFS()
    history: tuple[HistoryEntry, ...] | None = None


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the store.

    Attributes:
        id: `sha256:` and the digest of the configuration.
        repo_tags: familiar names with their tags, sorted.
        repo_digests: familiar names with the digest they were pulled by, sorted.
        layers: diff ids, lowest first.
        size: bytes of all layers, unpacked.
        tagged_at: when a name was last given to it, RFC 3339.
    """

    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    manifest_digest: str
    config: ImageConfig
    architecture: str
    os: str
    variant: str = ""
    created: str | None = None
    author: str = ""
    comment: str = ""
    layers: tuple[str, ...] = ()
    layer_sizes: tuple[int, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    size: int = 0
    tagged_at: str = ""

    @property
    def short_id(self) -> str:
        """The twelve digits that people see."""
        return self.id.removeprefix("sha256:")[:12]


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `docker history`, newest first."""

    id: str
    created: str | None
    created_by: str
    tags: tuple[str, ...]
    size: int
    comment: str


class RegistryAuth(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials for one registry, as `docker login` keeps them."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    @override
    def __repr__(self) -> str:
        return f"RegistryAuth(username={self.username!r})"


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest is for."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")

    @override
    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class RemoteDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry says that a name stands for."""

    media_type: str
    digest: str
    size: int
    platforms: tuple[Platform, ...]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a pull or load; `layer` is the short digest, empty for the whole."""

    status: str
    layer: str = ""
    current: int = 0
    total: int = 0


_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "i386": "386",
    "i686": "386",
}


def parse_platform(text: str) -> Platform:
    """Read `os[/architecture[/variant]]` as `--platform` takes it.

    >>> str(parse_platform("linux/aarch64"))
    'linux/arm64'
    """
    parts = text.strip().lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise InvalidArgument(
            f'"{text}" is an invalid platform: it must be os[/architecture[/variant]]',
            field="platform",
        )
    os, architecture, variant = (*parts, "", "")[:3]
    if len(parts) == 1 and os != "linux":
        os, architecture = "linux", os
    architecture = _ARCHITECTURES.get(architecture, architecture)
    if architecture == "arm64" and variant == "v8":
        variant = ""
    return Platform(os=os, architecture=architecture, variant=variant)
