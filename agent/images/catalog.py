"""Which images there are and what they are called: the store's one persisted record.

Pure. A catalog is a value; changing it gives a new one, which the store writes down before it
counts. References are kept in full form (`docker.io/library/x:latest`), shown in familiar form.
"""

from collections.abc import Iterable, Mapping

import msgspec

from shoal.model.errors import Internal, NotFound
from shoal.model.reference import Reference, parse_reference

FORMAT = 1
_SHORTEST_PREFIX = 4


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image.

    Attributes:
        indexes: digests of the indexes it was found through; peers may ask for them.
        tags: full references with a tag.
        digests: full references with a digest.
        doomed: removed by force while a container uses it; goes with the last of these.
    """

    id: str
    manifest: str
    indexes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    tagged_at: str = ""
    doomed: bool = False


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    images: tuple[Record, ...]


class Catalog:
    """Records by image id. Frozen by habit: every change returns another catalog."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records = records

    def with_record(self, record: Record) -> "Catalog":
        """The record in place of the former one of its id; its names are taken from others."""
        taken = {*record.tags, *record.digests}
        others = {
            other.id: self._without_names(other, taken)
            for other in self.records.values()
            if other.id != record.id
        }
        return Catalog({**others, record.id: record})

    def without(self, image_id: str) -> "Catalog":
        return Catalog({key: value for key, value in self.records.items() if key != image_id})

    def visible(self) -> Iterable[Record]:
        return (record for record in self.records.values() if not record.doomed)

    def owner_of(self, full: str) -> Record | None:
        """The image that has this full reference."""
        for record in self.visible():
            if full in record.tags or full in record.digests:
                return record
        return None

    def find(self, text: str) -> tuple[Record, Reference | None]:
        """The image meant by an id, a name or an id's start, and the name if it was one."""
        bare = text.removeprefix("sha256:")
        if len(bare) == 64 and f"sha256:{bare}" in self.records:
            record = self.records[f"sha256:{bare}"]
            if not record.doomed:
                return record, None
        if len(bare) == 64 and _is_hex(bare):
            raise NotFound(f"No such image: {text}")
        reference = parse_reference(text).tagged() if bare == text else None
        named = self._named(reference) if reference is not None else None
        if named is not None:
            return named, reference
        if _is_hex(bare) and len(bare) >= _SHORTEST_PREFIX:
            found = [one for one in self.visible() if one.id.startswith(f"sha256:{bare}")]
            if len(found) == 1:
                return found[0], None
            if found:
                raise NotFound(f"No such image: {text} (several ids begin so)")
        raise NotFound(f"No such image: {reference.familiar if reference else text}")

    def _named(self, reference: Reference) -> Record | None:
        if reference.digest is not None:  # a digest says more than a tag beside it
            return self.owner_of(f"{reference.name}@{reference.digest}")
        return self.owner_of(reference.full)

    @staticmethod
    def _without_names(record: Record, taken: set[str]) -> Record:
        if taken.isdisjoint(record.tags) and taken.isdisjoint(record.digests):
            return record
        return msgspec.structs.replace(
            record,
            tags=tuple(tag for tag in record.tags if tag not in taken),
            digests=tuple(digest for digest in record.digests if digest not in taken),
        )


def encode_catalog(catalog: Catalog) -> bytes:
    """The catalog's file, readable for people."""
    images = tuple(sorted(catalog.records.values(), key=lambda record: record.id))
    content = msgspec.json.encode(_File(format=FORMAT, images=images))
    return msgspec.json.format(content, indent=1) + b"\n"


def decode_catalog(content: bytes) -> Catalog:
    """Read the catalog's file; a younger format than ours is refused rather than lost."""
    try:
        file = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as error:
        raise Internal(f"the image store's names are damaged: {error}") from error
    if file.format != FORMAT:
        raise Internal(f"the image store has format {file.format}, this agent knows {FORMAT}")
    return Catalog({record.id: record for record in file.images})


def familiar(full: str) -> str:
    """A full reference as people write it."""
    return parse_reference(full).familiar


def _is_hex(text: str) -> bool:
    return bool(text) and all(digit in "0123456789abcdef" for digit in text)
