"""From the store's records and documents to what callers see: `Image`, history rows.

Pure. Called by the store whenever its catalog changes.
"""

from collections.abc import Sequence

import msgspec

from agent.images.catalog import Record, familiar
from agent.images.image import HistoryRow, Image, ImageConfig, ImageDocument


def make_image(record: Record, document: ImageDocument, sizes: Sequence[int]) -> Image:
    """The image of a record; its names are put on by `with_names`."""
    return Image(
        id=record.id,
        manifest_digest=record.manifest,
        config=document.config or ImageConfig(),
        architecture=document.architecture,
        os=document.os or "linux",
        variant=document.variant or "",
        created=document.created,
        author=document.author or "",
        comment=document.comment or "",
        layers=document.rootfs.diff_ids or (),
        layer_sizes=tuple(sizes),
        history=document.history or (),
        size=sum(sizes),
    )


def with_names(image: Image, record: Record) -> Image:
    """The image under the names that the record has now."""
    return msgspec.structs.replace(
        image,
        repo_tags=tuple(sorted(familiar(tag) for tag in record.tags)),
        repo_digests=tuple(sorted(familiar(digest) for digest in record.digests)),
        tagged_at=record.tagged_at,
    )


def history_rows(image: Image) -> tuple[HistoryRow, ...]:
    """The build steps, newest first. Only the newest has an id and names, as with Docker."""
    sizes = iter(image.layer_sizes)
    rows = [
        HistoryRow(
            id="<missing>",
            created=entry.created,
            created_by=entry.created_by or "",
            tags=(),
            size=0 if entry.empty_layer else next(sizes, 0),
            comment=entry.comment or "",
        )
        for entry in image.history
    ]
    if rows:
        rows[-1] = msgspec.structs.replace(rows[-1], id=image.id, tags=image.repo_tags)
    return tuple(reversed(rows))
