"""Reading manifests, indexes and configurations, and choosing among platforms.

Pure. Every document here was written by somebody else: whatever does not fit its shape is
refused with a sentence, and nothing but its digest vouches for it. Called by the archive
reader, by the pull and by the store.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agent.images.image import ImageDocument, Platform
from shoal.model.errors import InvalidArgument, NotFound, Unimplemented
from shoal.model.reference import check_digest

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCUMENT_LIMIT = 8 << 20
_LAYER_LIMIT = 1000


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A pointer to a blob: kind, digest, size."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: Mapping[str, str] | None = None

    @property
    def short(self) -> str:
        """The twelve digits that a pull shows."""
        return self.digest.partition(":")[2][:12]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One image for one platform: its configuration and its layers, lowest first."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Manifests for several platforms."""

    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = ""


class _Kind(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: Any = None


def digest_of(content: bytes) -> str:
    """The sha256 digest of some bytes, in the usual form."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def parse_manifest(content: bytes) -> Manifest | Index:
    """Tell a manifest from an index, and check every digest's form."""
    try:
        kind = msgspec.json.decode(content, type=_Kind)
        if kind.schema_version == 1:
            raise Unimplemented(
                "images of Docker image manifest version 2, schema 1 are not supported: "
                "push the image again with a tool that is younger than 2017"
            )
        if kind.manifests is not None:
            index = msgspec.json.decode(content, type=Index)
            _check_descriptors(index.manifests)
            return index
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"invalid image manifest: {error}") from error
    _check_descriptors((manifest.config, *manifest.layers))
    for layer in manifest.layers:
        if "tar" not in layer.media_type:
            raise InvalidArgument(
                f"this is no container image: a layer is of type {layer.media_type!r}"
            )
    return manifest


def media_type_of(content: bytes) -> str:
    """The document's own word for its kind, or what its shape says."""
    parsed = parse_manifest(content)
    if parsed.media_type:
        return parsed.media_type
    return OCI_INDEX if isinstance(parsed, Index) else OCI_MANIFEST


def parse_config(content: bytes) -> ImageDocument:
    """Read an image configuration and check its layer digests' form."""
    try:
        document = msgspec.json.decode(content, type=ImageDocument)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"invalid image configuration: {error}") from error
    for diff_id in document.rootfs.diff_ids or ():
        check_sha256(diff_id)
    return document


def check_layers(document: ImageDocument, count: int) -> tuple[str, ...]:
    """The diff ids, which must be as many as there are layer blobs."""
    diff_ids = document.rootfs.diff_ids or ()
    if len(diff_ids) != count:
        raise InvalidArgument(
            f"invalid manifest, layers length mismatch: expected {len(diff_ids)}, got {count}"
        )
    return diff_ids


def compose_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """A manifest for an image that came without one, as the old `docker save` form does."""
    manifest = Manifest(
        schema_version=2, media_type=DOCKER_MANIFEST, config=config, layers=tuple(layers)
    )
    value = msgspec.to_builtins(manifest)
    for descriptor in (value["config"], *value["layers"]):
        for key in [key for key, field in descriptor.items() if field is None]:
            del descriptor[key]
    return msgspec.json.encode(value, order="sorted")


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The first manifest for the platform; an exact variant before the nearest lower one."""
    fitting = [entry for entry in index.manifests if fits(entry.platform, wanted)]
    if not fitting:
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    return max(fitting, key=lambda entry: _closeness(entry.platform, wanted))


def fits(found: Platform | None, wanted: Platform) -> bool:
    """Whether something made for one platform runs where the other is wanted."""
    if found is None or found.os != wanted.os:
        return False
    if wanted.architecture and found.architecture != wanted.architecture:
        return False
    if found.architecture != "arm" or not wanted.variant:
        return not wanted.variant or found.variant in {"", "v8", wanted.variant}
    return (found.variant or "v7") <= wanted.variant


def _closeness(found: Platform | None, wanted: Platform) -> tuple[bool, str]:
    variant = found.variant if found is not None else ""
    return (variant == wanted.variant, variant if wanted.variant else "")


def _check_descriptors(descriptors: Sequence[Descriptor]) -> None:
    if len(descriptors) > _LAYER_LIMIT:
        raise InvalidArgument(f"an image manifest names more than {_LAYER_LIMIT} blobs")
    for descriptor in descriptors:
        check_sha256(descriptor.digest)
        if descriptor.size < 0:
            raise InvalidArgument("an image manifest names a blob of negative size")


def check_sha256(digest: str) -> None:
    """Refuse what is not a sha256 digest in its usual form; it will become a file name."""
    check_digest(digest)
    if not digest.startswith("sha256:"):
        raise Unimplemented(f"{digest[:70]}: only sha256 digests are supported in images")
