"""How an image store is set up: the agent's configuration fills it in, tests shrink it."""

import msgspec

from agent.images.layers import LayerLimits


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and habits of one store.

    Attributes:
        platform: which images to take where the request does not say, `os/arch[/variant]`;
            empty for this machine's.
        insecure_registries: hosts (with port) that may speak plain HTTP; loopback always may.
        archive_bytes: what an archive for `docker load` may unpack to.
        parallel_layers: how many layers are unpacked at once.
    """

    platform: str = ""
    insecure_registries: tuple[str, ...] = ()
    archive_bytes: int = 128 << 30
    parallel_layers: int = 2
    layers: LayerLimits = LayerLimits()
