"""The agent's images: names, blobs and layers, owned by one object and changed under one lock.

    ROOT/catalog.json          which images there are, what they are called
    ROOT/blobs/sha256/<hex>    manifests, configurations and layers as they came
    ROOT/layers/<hex>/         a layer by its diff id, unpacked in overlay form
    ROOT/tmp/                  whatever is not finished; emptied at start

An image counts once its record is in the catalog, and that is written last; so a crash leaves
nothing but blobs and layers without a record, which `open` removes. Mounting is the runtime's:
it takes a hold (`acquire`), asks for the `layers`, and lets go after the last unmount.
"""

import asyncio
import builtins  # the class has a method `list`
import platform as machine
import tempfile
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from agent.images import manifest as documents
from agent.images import saving
from agent.images.archive import Arrival, Spool, read_archive
from agent.images.blobs import BlobStore, replace_synced
from agent.images.catalog import Catalog, Record, decode_catalog, encode_catalog, familiar
from agent.images.image import (
    HistoryRow,
    Image,
    Platform,
    Progress,
    RegistryAuth,
    RemoteDescriptor,
    parse_platform,
)
from agent.images.layers import LayerStore, remove_tree
from agent.images.pull import Puller, check_platform
from agent.images.removal import Use, decide_removal
from agent.images.settings import ImageSettings
from agent.images.skopeo import Skopeo
from agent.images.views import history_rows, make_image, with_names
from shoal.common.clock import Clock
from shoal.model.errors import ClusterError, InvalidArgument, NotFound
from shoal.model.reference import parse_reference


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One result of a load: the line that `docker load` prints, and the image."""

    line: str
    image: Image


class ImageStore:
    """The images of one agent. Open it before anything else; every method is safe to cancel."""

    def __init__(self, root: Path, clock: Clock, settings: ImageSettings | None = None) -> None:
        self._settings = settings or ImageSettings()
        self._root = root
        self._clock = clock
        self._tmp = root / "tmp"
        self._blobs = BlobStore(root / "blobs")
        self._layers = LayerStore(
            root / "layers",
            self._tmp,
            self._blobs,
            self._settings.layers,
            self._settings.parallel_layers,
        )
        self._skopeo = Skopeo(
            root / "registries", self._tmp, self._settings.insecure_registries
        )
        self._puller = Puller(self._skopeo)
        # Held while the catalog is decided on and written, and while something is swept.
        self._lock = asyncio.Lock()
        self._catalog = Catalog({})
        self._images: dict[str, Image] = {}
        self._holds: dict[str, tuple[str, Callable[[], bool]]] = {}
        self._leases: Counter[str] = Counter()

    async def open(self) -> None:
        """Read the catalog, empty `tmp/`, and drop what no image refers to."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_tree(self._tmp)
        self._tmp.mkdir(mode=0o700)
        self._blobs.prepare()
        self._layers.prepare()
        self._skopeo.prepare()
        if self._file.exists():
            self._catalog = decode_catalog(self._file.read_bytes())
        self._images = self._make_images(self._catalog)
        self._sweep(self._blobs.digests() | self._layers.diff_ids())

    # -- asking ------------------------------------------------------------------------------

    def find(self, text: str) -> Image:
        """The image meant by a name, an id or the start of an id; else `NotFound`."""
        record, _ = self._catalog.find(text)
        return self._images[record.id]

    def list(self) -> tuple[Image, ...]:
        """All images, youngest first."""
        images = [self._images[record.id] for record in self._catalog.visible()]
        return tuple(sorted(images, key=lambda image: image.created or "", reverse=True))

    def history(self, text: str) -> tuple[HistoryRow, ...]:
        """The build steps of an image, newest first."""
        return history_rows(self.find(text))

    def blob_path(self, digest: str) -> Path:
        """A blob's file, for peers that pull from this store."""
        documents.check_sha256(digest)
        if not self._blobs.has(digest):
            raise NotFound(f"blob {digest} is not in the image store")
        return self._blobs.path(digest)

    @asynccontextmanager
    async def saved(self, names: Sequence[str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The archive of `docker save`; what it consists of stays until the block ends."""
        chosen = saving.choose(self._catalog, names)
        with self._leased(d for each in chosen for d in self._needs(each.record)):
            contents = [
                saving.Content(
                    each,
                    self._manifest(each.record),
                    self._blobs.size(each.record.manifest),
                    documents.media_type_of(self._blobs.read(each.record.manifest)),
                )
                for each in chosen
            ]
            yield saving.archive(self._blobs.path, contents)

    # -- names -------------------------------------------------------------------------------

    async def tag(self, source: str, target: str) -> None:
        """Give an image another name, taking it from the image that had it."""
        reference = parse_reference(target)
        if reference.digest is not None:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        async with self._lock:
            record, _ = self._catalog.find(source)
            tags = tuple(sorted({*record.tags, reference.tagged().full}))
            await self._save(
                self._catalog.with_record(
                    msgspec.structs.replace(record, tags=tags, tagged_at=self._now())
                )
            )

    async def remove(self, text: str, *, force: bool = False) -> tuple[tuple[str, str], ...]:
        """Untag, and delete with the last name: pairs of `Untagged` or `Deleted` and what.

        An image that a stopped container uses is only hidden when it is forced away; its layers
        stay until the container lets go.
        """
        async with self._lock:
            record, named = self._catalog.find(text)
            uses = self._uses(record.id)
            removal = decide_removal(record, named, uses, force=force)
            told = [("Untagged", familiar(name)) for name in removal.untagged]
            gone = set(removal.untagged)
            rest = msgspec.structs.replace(
                record,
                tags=tuple(tag for tag in record.tags if tag not in gone),
                digests=tuple(digest for digest in record.digests if digest not in gone),
                doomed=removal.deleted,
            )
            freed: set[str] = set()
            if removal.deleted and not uses:
                freed = await self._drop(rest)
            else:
                await self._save(self._catalog.with_record(rest))
        if removal.deleted:
            told.append(("Deleted", record.id))
            told += [("Deleted", digest) for digest in sorted(freed)]
        return tuple(told)

    # -- holds -------------------------------------------------------------------------------

    def acquire(
        self, image_id: str, owner: str, running: Callable[[], bool] = lambda: True
    ) -> None:
        """Keep an image for a container. Not persisted: containers say it again at start.

        `running` is asked when somebody wants to remove the image: only a stopped container's
        may be forced away.
        """
        if image_id not in self._catalog.records:
            raise NotFound(f"No such image: {image_id}")
        self._holds[owner] = (image_id, running)

    async def release(self, owner: str) -> None:
        """Let go; an image that waited for it goes now."""
        image_id, _ = self._holds.pop(owner, ("", None))
        async with self._lock:
            record = self._catalog.records.get(image_id)
            if record is not None and record.doomed and not self._uses(image_id):
                await self._drop(record)

    async def collect(self) -> None:
        """Drop hidden images that nobody holds; once at start, after all holds are back."""
        async with self._lock:
            for record in tuple(self._catalog.records.values()):
                if record.doomed and not self._uses(record.id):
                    await self._drop(record)

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        """Lower directories for an overlay, topmost first, unpacked if they are not."""
        record = self._catalog.records.get(image_id)
        if record is None:
            raise NotFound(f"No such image: {image_id}")
        manifest = self._manifest(record)
        diff_ids = self._images[image_id].layers
        with self._leased((*diff_ids, *(layer.digest for layer in manifest.layers))):
            await self._unpack(manifest, diff_ids)
        # Overlay refuses a directory twice; the topmost covers all that the lower one says.
        return tuple(self._layers.path(one) for one in dict.fromkeys(reversed(diff_ids)))

    # -- filling -----------------------------------------------------------------------------

    async def load(self, archive: AsyncIterable[bytes]) -> tuple[Loaded, ...]:
        """Take in the images of an archive: all that come before a broken one stay."""
        results: builtins.list[Loaded] = []
        async with self._workplace() as work:
            file = work / "archive.tar"
            await self._spool(archive, file)
            arrivals = read_archive(file, work, self._blobs.has, self._platform(None))
            while True:
                arrival = await asyncio.to_thread(next, arrivals, None)
                if arrival is None:
                    return tuple(results)
                results += await self._load_one(arrival)

    async def _load_one(self, arrival: Arrival) -> builtins.list[Loaded]:
        renamed = []
        for tag in arrival.tags:
            former = self._catalog.owner_of(tag)
            if former is not None and former.id != arrival.manifest.config.digest:
                renamed.append(
                    f"The image {familiar(tag)} already exists, renaming the old one with ID "
                    f"{former.id} to empty string"
                )
        image = await self._admit(arrival)
        lines = [*renamed, *(f"Loaded image: {familiar(tag)}" for tag in arrival.tags)]
        if not arrival.tags:
            lines.append(f"Loaded image ID: {image.id}")
        return [Loaded(line=line, image=image) for line in lines]

    async def pull(
        self,
        name: str,
        auth: RegistryAuth | None = None,
        platform: str | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Image:
        """Have the image that a registry has under the name, for the platform."""
        reference = parse_reference(name).tagged()
        wanted = self._platform(platform)
        first = Progress(status=f"Pulling from {reference.path}", layer=reference.tag or "")
        progress(first)
        async with self._workplace() as work:
            target = await self._puller.resolve(reference, auth, wanted)
            config_digest = target.manifest.config.digest
            status = "Image is up to date for"
            image = None
            if self._has_manifest(target.manifest_digest):
                image = await self._rename(config_digest, target.tags, target.digests)
            if image is None:
                status = "Downloaded newer image for"
                arrival = await self._puller.fetch(target, auth, work, progress)
                image = await self._admit(arrival)
                for layer in target.manifest.layers:
                    progress(Progress(status="Pull complete", layer=layer.short))
        if platform:
            check_platform(image, name, wanted)
        progress(Progress(status=f"Digest: {target.named_digest}"))
        progress(Progress(status=f"Status: {status} {reference.familiar}"))
        return image

    async def resolve_remote(
        self, name: str, auth: RegistryAuth | None = None
    ) -> RemoteDescriptor:
        """What a registry says that a name stands for, without taking the image."""
        return await self._puller.describe(parse_reference(name).tagged(), auth)

    # -- the inside --------------------------------------------------------------------------

    def _has_manifest(self, digest: str) -> bool:
        return any(one.manifest == digest for one in self._catalog.records.values())

    @property
    def _file(self) -> Path:
        return self._root / "catalog.json"

    async def _admit(self, arrival: Arrival) -> Image:
        """Blobs in, layers unpacked, and only then the record."""
        document = documents.parse_config(arrival.config)
        diff_ids = documents.check_layers(document, len(arrival.manifest.layers))
        blobs = {layer.digest for layer in arrival.manifest.layers}
        touched = {*arrival.documents, *blobs, *diff_ids}
        try:
            with self._leased(touched):
                await asyncio.to_thread(self._adopt, arrival)
                await self._unpack(arrival.manifest, diff_ids)
                async with self._lock:
                    former = self._catalog.records.get(arrival.manifest.config.digest)
                    if former is not None:
                        touched |= self._needs(former)  # its manifest gives way to this one
                    record = _merge(former, arrival, self._now())
                    await self._save(self._catalog.with_record(record))
                    return self._images[record.id]
        finally:
            async with self._lock:  # what came in vain, or was replaced, goes
                await asyncio.to_thread(self._sweep, touched)

    def _adopt(self, arrival: Arrival) -> None:
        with tempfile.TemporaryDirectory(dir=self._tmp) as staging:
            for content in arrival.documents.values():
                self._blobs.write(content, Path(staging))
        for digest, file in arrival.staged.items():
            if not self._blobs.has(digest):
                self._blobs.adopt(file, digest)
        for layer in arrival.manifest.layers:
            if not self._blobs.has(layer.digest):
                raise InvalidArgument(f"layer {layer.digest} is missing from the image")

    async def _unpack(self, manifest: documents.Manifest, diff_ids: tuple[str, ...]) -> None:
        pairs = zip(diff_ids, manifest.layers, strict=True)
        missing = {one: layer.digest for one, layer in pairs if not self._layers.has(one)}
        first: builtins.list[ClusterError] = []
        try:
            async with asyncio.TaskGroup() as group:
                for diff_id, blob in missing.items():
                    group.create_task(
                        self._layers.ensure(diff_id, blob), name=f"unpack {diff_id[:19]}"
                    )
        except* ClusterError as failures:
            first += [error for error in failures.exceptions if isinstance(error, ClusterError)]
        if first:
            raise first[0]

    async def _spool(self, archive: AsyncIterable[bytes], file: Path) -> None:
        target = await asyncio.to_thread(file.open, "wb")
        with target:
            spool = Spool(target, self._settings.archive_bytes)
            async for chunk in archive:
                await asyncio.to_thread(spool.write, chunk)
            await asyncio.to_thread(spool.finish)

    async def _save(self, catalog: Catalog) -> None:
        """Write the catalog down, then believe it. The caller holds the lock."""
        images = await asyncio.to_thread(self._write, catalog)
        self._catalog, self._images = catalog, images

    def _write(self, catalog: Catalog) -> dict[str, Image]:
        images = self._make_images(catalog)
        replace_synced(self._file, encode_catalog(catalog))
        return images

    def _make_images(self, catalog: Catalog) -> dict[str, Image]:
        """Images for all records; only names change for those that were there before."""
        images = {}
        for record in catalog.records.values():
            known = self._images.get(record.id)
            if known is None or known.manifest_digest != record.manifest:
                document = documents.parse_config(self._blobs.read(record.id))
                sizes = [self._layers.size(one) for one in document.rootfs.diff_ids or ()]
                known = make_image(record, document, sizes)
            images[record.id] = with_names(known, record)
        return images

    async def _drop(self, record: Record) -> set[str]:
        """Forget an image and remove what only it needed; the layers that went."""
        needed = await asyncio.to_thread(self._needs, record)
        await self._save(self._catalog.without(record.id))
        return await asyncio.to_thread(self._sweep, needed)

    async def _rename(
        self, image_id: str, tags: tuple[str, ...], digests: tuple[str, ...]
    ) -> Image | None:
        """Give a present image the names of a pull; None if it is not there any more."""
        async with self._lock:
            now = self._catalog.records.get(image_id)
            if now is None:
                return None
            fresh = msgspec.structs.replace(
                now,
                tags=tuple(sorted({*now.tags, *tags})),
                digests=tuple(sorted({*now.digests, *digests})),
                doomed=False,
                tagged_at=now.tagged_at if set(tags) <= set(now.tags) else self._now(),
            )
            if fresh != now:
                await self._save(self._catalog.with_record(fresh))
            return self._images[image_id]

    def _sweep(self, candidates: set[str]) -> set[str]:
        """Remove those blobs and layers that no image needs and nobody is about to need."""
        needed: set[str] = set()
        for record in self._catalog.records.values():
            needed |= self._needs(record)
        freed = set()
        for digest in candidates - needed:
            if self._leases[digest]:
                continue
            self._blobs.delete(digest)
            if self._layers.has(digest):
                freed.add(digest)
            self._layers.delete(digest)
        return freed

    def _needs(self, record: Record) -> set[str]:
        """All that an image is made of: documents and layer blobs, and its diff ids."""
        blobs = {layer.digest for layer in self._manifest(record).layers}
        layers = self._images[record.id].layers
        return {record.manifest, record.id, *record.indexes, *blobs, *layers}

    def _manifest(self, record: Record) -> documents.Manifest:
        parsed = documents.parse_manifest(self._blobs.read(record.manifest))
        if isinstance(parsed, documents.Index):
            raise InvalidArgument(f"{record.manifest} is an index, not an image's manifest")
        return parsed

    def _uses(self, image_id: str) -> tuple[Use, ...]:
        holds = sorted(self._holds.items())
        return tuple(
            Use(owner=owner, running=running())
            for owner, (held, running) in holds
            if held == image_id
        )

    def _platform(self, text: str | None) -> Platform:
        own = f"linux/{machine.machine()}"
        return parse_platform(text or self._settings.platform or own)

    def _now(self) -> str:
        return self._clock.now().isoformat().replace("+00:00", "Z")

    @contextmanager
    def _leased(self, digests: Iterable[str]) -> Iterator[None]:
        """While inside, nobody sweeps these away, though no record needs them yet."""
        taken = Counter(set(digests))
        self._leases += taken
        try:
            yield
        finally:
            self._leases -= taken

    @asynccontextmanager
    async def _workplace(self) -> AsyncIterator[Path]:
        work = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._tmp))
        try:
            yield work
        finally:
            await asyncio.to_thread(remove_tree, work)


def _merge(former: Record | None, arrival: Arrival, now: str) -> Record:
    """The record of an image that came (again): names add up, the latest manifest counts."""
    before = former or Record(id=arrival.manifest.config.digest, manifest="")
    return Record(
        id=before.id,
        manifest=arrival.manifest_digest,
        indexes=tuple(sorted({*before.indexes, *arrival.indexes})),
        tags=tuple(sorted({*before.tags, *arrival.tags})),
        digests=tuple(sorted({*before.digests, *arrival.digests})),
        tagged_at=now,
    )
