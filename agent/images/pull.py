"""What a name means at a registry, and one image of it on disk.

Asks for the document behind the name first, chooses the manifest itself and fetches that by
its digest: so a tag that moves meanwhile cannot mix two images. Admitting the result is the
store's.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from agent.images import manifest as documents
from agent.images.archive import Arrival
from agent.images.image import Image, Platform, Progress, RegistryAuth, RemoteDescriptor
from agent.images.skopeo import Skopeo
from shoal.model.errors import InvalidArgument, NotFound
from shoal.model.reference import Reference


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest at a registry, and the names that its image will have here.

    Attributes:
        named_digest: of the document that the name stands for: an index or the manifest.
    """

    reference: Reference
    named_digest: str
    manifest_digest: str
    manifest: documents.Manifest
    contents: Mapping[str, bytes]
    tags: tuple[str, ...]
    digests: tuple[str, ...]


class Puller:
    """Registry names resolved and fetched, by way of skopeo."""

    def __init__(self, skopeo: Skopeo) -> None:
        self._skopeo = skopeo

    async def resolve(
        self, reference: Reference, auth: RegistryAuth | None, wanted: Platform
    ) -> Target:
        """The manifest that the name means for the platform."""
        content = await self._read(reference, auth)
        named = digest = documents.digest_of(content)
        contents = {named: content}
        parsed = documents.parse_manifest(content)
        if isinstance(parsed, documents.Index):
            digest = documents.choose(parsed, wanted).digest
            content = await self._read(_by_digest(reference, digest), auth)
            contents[digest] = content
            parsed = documents.parse_manifest(content)
        if isinstance(parsed, documents.Index):
            raise InvalidArgument(f"{reference.familiar} is an index of indexes")
        return Target(
            reference=reference,
            named_digest=named,
            manifest_digest=digest,
            manifest=parsed,
            contents=contents,
            tags=(reference.full,) if reference.digest is None else (),
            digests=(f"{reference.name}@{named}",),
        )

    async def fetch(
        self,
        target: Target,
        auth: RegistryAuth | None,
        work: Path,
        progress: Callable[[Progress], None],
    ) -> Arrival:
        """All blobs of the target, staged below `work`."""
        layers = target.manifest.layers
        for layer in layers:
            progress(Progress(status="Pulling fs layer", layer=layer.short))
        directory = work / "fetched"
        source = _by_digest(target.reference, target.manifest_digest)
        await self._skopeo.fetch(source, auth, directory)
        for layer in layers:
            progress(Progress(status="Download complete", layer=layer.short))
        return await asyncio.to_thread(_arrival, target, directory)

    async def describe(
        self, reference: Reference, auth: RegistryAuth | None
    ) -> RemoteDescriptor:
        """Digest, kind and platforms of what the name stands for."""
        content = await self._read(reference, auth)
        parsed = documents.parse_manifest(content)
        if isinstance(parsed, documents.Index):
            platforms = tuple(one.platform for one in parsed.manifests if one.platform)
        else:
            document = documents.parse_config(
                await self._skopeo.raw_config(
                    _by_digest(reference, documents.digest_of(content)), auth
                )
            )
            own = Platform(
                os=document.os,
                architecture=document.architecture,
                variant=document.variant or "",
            )
            platforms = (own,)
        return RemoteDescriptor(
            media_type=documents.media_type_of(content),
            digest=documents.digest_of(content),
            size=len(content),
            platforms=platforms,
        )

    async def _read(self, reference: Reference, auth: RegistryAuth | None) -> bytes:
        content = await self._skopeo.raw_manifest(reference, auth)
        found = documents.digest_of(content)
        if reference.digest is not None and found != reference.digest:
            raise InvalidArgument(
                f"wrong digest: {reference.familiar} was asked for, {found} came"
            )
        return content


def check_platform(image: Image, name: str, wanted: Platform) -> None:
    """Refuse an image that came without an index and is for something else than was asked."""
    own = Platform(os=image.os, architecture=image.architecture, variant=image.variant)
    if not documents.fits(own, wanted):
        raise NotFound(
            f"image with reference {name} was found but its platform ({own}) does not match "
            f"the specified platform ({wanted})"
        )


def _by_digest(reference: Reference, digest: str) -> Reference:
    return msgspec.structs.replace(reference, tag=None, digest=digest)


def _arrival(target: Target, directory: Path) -> Arrival:
    config = target.manifest.config
    file = directory / config.digest.removeprefix("sha256:")
    if file.stat().st_size > documents.DOCUMENT_LIMIT:
        raise InvalidArgument("the image's configuration is too large")
    content = file.read_bytes()
    if documents.digest_of(content) != config.digest:
        raise InvalidArgument(f"wrong digest: configuration {config.digest} is damaged")
    digests = {layer.digest for layer in target.manifest.layers}
    return Arrival(
        manifest_digest=target.manifest_digest,
        manifest=target.manifest,
        config=content,
        documents={**target.contents, config.digest: content},
        staged={digest: directory / digest.removeprefix("sha256:") for digest in digests},
        indexes=tuple(digest for digest in target.contents if digest != target.manifest_digest),
        tags=target.tags,
        digests=target.digests,
    )
