"""What `docker save` writes: one archive that is both an OCI layout and Docker's own form.

The store says what the images are made of and keeps it there meanwhile. Names and times depend
on the content alone, so the same images give the same archive.
"""

import asyncio
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from agent.images import manifest as documents
from agent.images.catalog import Catalog, Record, familiar
from agent.images.manifest import Descriptor, Manifest
from shoal.model.errors import NotFound
from shoal.model.reference import parse_reference

_CHUNK = 1 << 20
_BLOCK = 512
_FULL_NAME = "io.containerd.image.name"
_SHORT_NAME = "org.opencontainers.image.ref.name"


class Chosen(msgspec.Struct, frozen=True):
    """An image to be saved and the names, in full form, that the archive gives it."""

    record: Record
    tags: tuple[str, ...]


class Content(msgspec.Struct, frozen=True):
    """A chosen image with its manifest, and the manifest's bytes' size and kind."""

    chosen: Chosen
    manifest: Manifest
    size: int
    media_type: str


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: tuple[str, ...] | None
    layers: tuple[str, ...]


class _Index(msgspec.Struct, frozen=True, omit_defaults=False):
    schemaVersion: int  # noqa: N815 - as the layout spells it
    mediaType: str  # noqa: N815
    manifests: tuple[Descriptor, ...]


def choose(catalog: Catalog, names: Sequence[str]) -> list[Chosen]:
    """The images meant: a bare repository is all its tags, an id has no name."""
    tags: dict[str, dict[str, None]] = {}
    for name in names:
        repository = _repository(catalog, name)
        for record, full in repository:
            tags.setdefault(record.id, {})[full] = None
        if repository:
            continue
        record, reference = catalog.find(name)
        found = tags.setdefault(record.id, {})
        if reference is not None and reference.full in record.tags:
            found[reference.full] = None
    if not tags:
        raise NotFound("no image was named to be saved")
    return [Chosen(catalog.records[key], tuple(found)) for key, found in tags.items()]


def _repository(catalog: Catalog, name: str) -> list[tuple[Record, str]]:
    """All tags of what is named without one; nothing where that is not a repository."""
    if name.startswith("sha256:"):
        return []
    reference = parse_reference(name)
    if reference.tag is not None or reference.digest is not None:
        return []
    return [
        (record, full)
        for record in catalog.visible()
        for full in record.tags
        if parse_reference(full).name == reference.name
    ]


async def archive(
    blob: Callable[[str], Path], images: Sequence[Content]
) -> AsyncIterator[bytes]:
    """The archive, piece by piece; `blob` says where the store keeps a digest."""
    for name in ("blobs/", "blobs/sha256/"):
        yield _header(name, 0, kind=tarfile.DIRTYPE)
    digests = {
        digest: None
        for image in images
        for digest in (
            image.chosen.record.manifest,
            image.manifest.config.digest,
            *(layer.digest for layer in image.manifest.layers),
        )
    }
    for digest in sorted(digests):
        async for data in _file(_path(digest), blob(digest)):
            yield data
    for name, content in (
        ("index.json", msgspec.json.encode(_index(images))),
        ("manifest.json", msgspec.json.encode([_saved(image) for image in images])),
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
    ):
        yield _header(name, len(content)) + content + _padding(len(content))
    yield bytes(2 * _BLOCK)  # the end of a tar file


def _index(images: Iterable[Content]) -> _Index:
    return _Index(
        schemaVersion=2,
        mediaType=documents.OCI_INDEX,
        manifests=tuple(
            Descriptor(
                digest=image.chosen.record.manifest,
                size=image.size,
                media_type=image.media_type,
                annotations={_FULL_NAME: tag, _SHORT_NAME: tag.rpartition(":")[2]}
                if tag
                else None,
            )
            for image in images
            for tag in image.chosen.tags or ("",)
        ),
    )


def _saved(image: Content) -> _Saved:
    return _Saved(
        config=_path(image.manifest.config.digest),
        repo_tags=tuple(familiar(tag) for tag in image.chosen.tags) or None,
        layers=tuple(_path(layer.digest) for layer in image.manifest.layers),
    )


async def _file(name: str, path: Path) -> AsyncIterator[bytes]:
    content = await asyncio.to_thread(path.open, "rb")
    try:
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        yield _header(name, size)
        while data := await asyncio.to_thread(content.read, _CHUNK):
            yield data
        yield _padding(size)
    finally:
        content.close()


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")
