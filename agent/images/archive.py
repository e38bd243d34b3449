"""Reading what `docker load` is given: `docker save` archives, old and new, and OCI layouts.

Takes an archive apart into documents and blob files in a staging directory; nothing of it
counts before the store has checked every digest and unpacked every layer. Nothing is extracted
by the names in the archive. Everything here blocks: the store calls it in a thread.
"""

import bz2
import hashlib
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from agent.images import manifest as documents
from agent.images.image import Platform
from agent.images.manifest import Descriptor, Index, Manifest
from shoal.model.errors import InvalidArgument, ResourceExhausted, Unimplemented
from shoal.model.reference import parse_reference

_CHUNK = 1 << 20
_MAX_MEMBERS = 100_000
_MAX_LINKS = 8
_MAX_NESTING = 4
_FULL_NAME = "io.containerd.image.name"
_SHORT_NAME = "org.opencontainers.image.ref.name"
_ZSTD = b"\x28\xb5\x2f\xfd"


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """An image on its way into the store.

    Attributes:
        documents: manifest, configuration and indexes, by digest.
        staged: files whose content should have the digest; not those that the store has.
        tags: full references with tags.
        digests: full references with digests.
    """

    manifest_digest: str
    manifest: Manifest
    config: bytes
    documents: Mapping[str, bytes]
    staged: Mapping[str, Path]
    indexes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


class Known(Protocol):
    """Whether the store has a blob already; then its bytes need not be taken out again."""

    def __call__(self, digest: str) -> bool: ...


class _Saved(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


class Spool:
    """An archive being written to disk as it comes, decompressed, up to a limit."""

    def __init__(self, target: IO[bytes], limit: int) -> None:
        self._target = target
        self._left = limit
        self._limit = limit
        self._head = b""
        self._decoder: Any = None
        self._decided = False

    def write(self, chunk: bytes) -> None:
        """Take the next bytes, however they are cut."""
        if not self._decided:
            self._head += chunk
            if len(self._head) < 6:
                return
            chunk = self._decide()
        self._decode(chunk)

    def finish(self) -> None:
        """No more will come."""
        if not self._decided:
            self._decode(self._decide())
        if self._decoder is not None and not self._decoder.eof:
            raise InvalidArgument("the archive ends early: its compressed stream is incomplete")
        self._target.flush()

    def _decide(self) -> bytes:
        head, self._head, self._decided = self._head, b"", True
        if head.startswith(_ZSTD):
            raise Unimplemented("the archive is compressed with zstd: use gzip, or none")
        self._decoder = _decoder(head)
        return head

    def _decode(self, chunk: bytes) -> None:
        if self._decoder is None:
            self._put(chunk)
            return
        try:
            while chunk:
                chunk = self._step(chunk)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InvalidArgument(f"the archive's compression is broken: {error}") from error

    def _step(self, chunk: bytes) -> bytes:
        """One bounded piece out, what is left of the input back."""
        if self._decoder.eof:
            if not chunk.strip(b"\0"):
                return b""
            self._decoder = _decoder(chunk)
            if self._decoder is None:
                raise InvalidArgument("there is data after the end of the archive's stream")
        self._put(self._decoder.decompress(chunk, _CHUNK))
        if isinstance(self._decoder, _Gzip):
            return self._decoder.left
        while not self._decoder.eof and not self._decoder.needs_input:
            self._put(self._decoder.decompress(b"", _CHUNK))
        return bytes(self._decoder.unused_data) if self._decoder.eof else b""

    def _put(self, plain: bytes) -> None:
        self._left -= len(plain)
        if self._left < 0:
            raise ResourceExhausted(f"the archive is larger than {self._limit} bytes")
        self._target.write(plain)


class _Gzip:
    """zlib's decompressor with what is left of the input in one place."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def left(self) -> bytes:
        return self._inner.unused_data if self.eof else self._inner.unconsumed_tail

    def decompress(self, chunk: bytes, size: int) -> bytes:
        return self._inner.decompress(chunk, size)


def _decoder(head: bytes) -> Any:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip()
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor(memlimit=1 << 28)
    return None


def read_archive(
    file: Path, staging: Path, known: Known, platform: Platform
) -> Iterator[Arrival]:
    """The images of an archive, in its order."""
    try:
        with tarfile.open(file, "r:", errors="surrogateescape") as archive:
            yield from _Archive(archive, staging, known, platform).images()
    except tarfile.TarError as error:
        raise InvalidArgument(f"the archive is not a sound tar file: {error}") from error


class _Archive:
    def __init__(
        self, archive: tarfile.TarFile, staging: Path, known: Known, platform: Platform
    ) -> None:
        self._archive = archive
        self._staging = staging
        self._known = known
        self._platform = platform
        self._members: dict[str, tarfile.TarInfo] = {}
        self._staged: dict[str, str] = {}  # path in the archive -> digest of its staged copy
        for member in archive:
            if len(self._members) >= _MAX_MEMBERS:
                raise InvalidArgument(f"the archive has more than {_MAX_MEMBERS} members")
            self._members[posixpath.normpath(member.name)] = member

    def images(self) -> Iterator[Arrival]:
        layout = self._layout() if "index.json" in self._members else []
        if "manifest.json" in self._members:
            yield from self._saved(layout)
        elif layout:
            yield from layout
        else:
            raise InvalidArgument(
                "the archive holds no images: it has neither manifest.json nor index.json"
            )

    def _saved(self, layout: list[Arrival]) -> Iterator[Arrival]:
        """The `docker save` form. A layout's manifest of the same image is kept."""
        by_config = {arrival.manifest.config.digest: arrival for arrival in layout}
        try:
            saved = msgspec.json.decode(
                self._document("manifest.json"), type=tuple[_Saved, ...]
            )
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"the archive's manifest.json is invalid: {error}") from error
        for entry in saved:
            tags = tuple(parse_reference(tag).tagged().full for tag in entry.repo_tags or ())
            config = self._document(entry.config)
            arrival = by_config.get(documents.digest_of(config))
            if arrival is None:
                arrival = self._compose(config, entry.layers or ())
            yield msgspec.structs.replace(arrival, tags=tags)

    def _compose(self, config: bytes, layers: tuple[str, ...]) -> Arrival:
        diff_ids = documents.check_layers(documents.parse_config(config), len(layers))
        digest = documents.digest_of(config)
        pointers = [
            self._layer(path, diff_id) for path, diff_id in zip(layers, diff_ids, strict=True)
        ]
        pointer = Descriptor(
            digest=digest, size=len(config), media_type=documents.DOCKER_CONFIG
        )
        content = documents.compose_manifest(pointer, pointers)
        return self._arrival(content, config, {})

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        """One layer's blob; a plain archive that the store has already is not copied again."""
        member = self._resolve(path)
        head = self._open(member).read(6)
        kind = documents.DOCKER_LAYER + (".gzip" if head.startswith(b"\x1f\x8b") else "")
        digest = self._staged.get(path)
        if digest is None:
            plain = kind == documents.DOCKER_LAYER
            digest = diff_id if plain and self._known(diff_id) else self._stage(member)
            self._staged[path] = digest
        return Descriptor(digest=digest, size=member.size, media_type=kind)

    def _layout(self) -> list[Arrival]:
        found: list[Arrival] = []
        self._walk(self._document("index.json"), (), found, 0)
        return found

    def _walk(
        self,
        content: bytes,
        names: tuple[str, ...],
        found: list[Arrival],
        depth: int,
    ) -> None:
        """Follow indexes down to manifests; nested ones count for this host's platform only."""
        index = documents.parse_manifest(content)
        if not isinstance(index, Index) or depth > _MAX_NESTING:
            raise InvalidArgument("the archive's index.json is no index, or nested too deeply")
        entries = index.manifests
        if depth:
            entries = (documents.choose(index, self._platform),)
        for entry in entries:
            if not self._has(entry.digest):
                continue  # an index may name platforms that were not saved
            own = names or _names(entry)
            body = self._blob(entry)
            parsed = documents.parse_manifest(body)
            if isinstance(parsed, Index):
                self._walk(body, own, found, depth + 1)
            else:
                found.append(self._pack(body, parsed, own))

    def _pack(self, body: bytes, parsed: Manifest, names: tuple[str, ...]) -> Arrival:
        config = self._blob(parsed.config)
        documents.check_layers(documents.parse_config(config), len(parsed.layers))
        staged = {}
        for layer in parsed.layers:
            if not self._known(layer.digest):
                path = _blob_path(layer.digest)
                if path not in self._staged:
                    self._staged[path] = self._stage(self._resolve(path))
                staged[layer.digest] = self._file(self._staged[path])
                if self._staged[path] != layer.digest:
                    raise InvalidArgument(
                        f"wrong digest: the archive's blob {layer.digest} "
                        f"is {self._staged[path]}"
                    )
        arrival = self._arrival(body, config, staged)
        return msgspec.structs.replace(arrival, tags=names)

    def _arrival(self, body: bytes, config: bytes, staged: Mapping[str, Path]) -> Arrival:
        parsed = documents.parse_manifest(body)
        if isinstance(parsed, Index):
            raise InvalidArgument("the archive names an index where a manifest must be")
        own = {layer.digest: self._file(layer.digest) for layer in parsed.layers}
        files = {digest: file for digest, file in own.items() if file.exists()}
        return Arrival(
            manifest_digest=documents.digest_of(body),
            manifest=parsed,
            config=config,
            documents={documents.digest_of(body): body, parsed.config.digest: config},
            staged={**files, **staged},
        )

    def _has(self, digest: str) -> bool:
        return _blob_path(digest) in self._members

    def _blob(self, entry: Descriptor) -> bytes:
        content = self._document(_blob_path(entry.digest))
        if documents.digest_of(content) != entry.digest:
            raise InvalidArgument(
                f"wrong digest: the archive's blob {entry.digest} "
                f"is {documents.digest_of(content)}"
            )
        return content

    def _document(self, path: str) -> bytes:
        member = self._resolve(path)
        if member.size > documents.DOCUMENT_LIMIT:
            raise InvalidArgument(
                f"{path} in the archive has {member.size} bytes, "
                f"more than the {documents.DOCUMENT_LIMIT} that a document may have"
            )
        return self._open(member).read()

    def _resolve(self, path: str) -> tarfile.TarInfo:
        """A regular member, through the links by which old archives save a layer once."""
        for _ in range(_MAX_LINKS):
            member = self._members.get(posixpath.normpath(path))
            if member is None:
                raise InvalidArgument(f"the archive lacks {path}, which it refers to")
            if member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                break
            base = posixpath.dirname(member.name) if member.issym() else ""
            path = posixpath.join(base, member.linkname)
        raise InvalidArgument(f"{path} in the archive is not a regular file")

    def _open(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._archive.extractfile(member)
        if content is None:
            raise InvalidArgument(f"{member.name} in the archive has no content")
        return content

    def _stage(self, member: tarfile.TarInfo) -> str:
        """Copy a member into the staging directory under the digest that it has."""
        state = hashlib.sha256()
        work = self._staging / "incoming"
        content = self._open(member)
        with work.open("wb") as target:
            while chunk := content.read(_CHUNK):
                state.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        digest = "sha256:" + state.hexdigest()
        work.rename(self._file(digest))
        return digest

    def _file(self, digest: str) -> Path:
        return self._staging / digest.removeprefix("sha256:")


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _names(entry: Descriptor) -> tuple[str, ...]:
    """The names that a layout gives an image; a bare tag without repository is none."""
    annotations = entry.annotations or {}
    name = annotations.get(_FULL_NAME) or annotations.get(_SHORT_NAME, "")
    if not (":" in name or "/" in name):
        return ()
    reference = parse_reference(name).tagged()
    return (reference.full,) if reference.tag is not None else ()
