"""What removing an image means: which names go, whether the image goes, or why not.

Pure. The rules and sentences are the Docker Engine's, because scripts depend on both: a name is
untagged; the image goes with its last name; a container's image is kept unless forced, and a
running container's always. Called by the store under its lock.
"""

from collections.abc import Sequence

import msgspec

from agent.images.catalog import Record
from shoal.model.errors import Conflict
from shoal.model.reference import Reference, parse_reference


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A container that was made from the image."""

    owner: str
    running: bool


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """The names that go, in full form, and whether the image itself goes."""

    untagged: tuple[str, ...]
    deleted: bool


def decide_removal(
    record: Record, named: Reference | None, uses: Sequence[Use], *, force: bool
) -> Removal:
    """Remove by name (`named`) or by id. Raises `Conflict` with Docker's sentence."""
    if named is not None:
        return _by_name(record, named, uses, force=force)
    names = (*record.tags, *record.digests)
    if names and not force and not _single(record):
        raise Conflict(
            f"conflict: unable to delete {_short(record.id)} (must be forced) - "
            "image is referenced in multiple repositories"
        )
    _check_uses(record, uses, force=force)
    return Removal(untagged=names, deleted=True)


def _by_name(record: Record, named: Reference, uses: Sequence[Use], *, force: bool) -> Removal:
    if not force and uses and _single(record):
        raise Conflict(
            f'conflict: unable to remove repository reference "{named.familiar}" (must force)'
            f" - container {uses[0].owner[:12]} is using its referenced image"
            f" {_short(record.id)}"
        )
    full = f"{named.name}@{named.digest}" if named.digest is not None else named.full
    gone = [full]
    tags = [tag for tag in record.tags if tag != full]
    if named.digest is None and named.name not in {parse_reference(tag).name for tag in tags}:
        gone += [one for one in record.digests if one.partition("@")[0] == named.name]
    left = [*tags, *(one for one in record.digests if one not in gone)]
    running = any(use.running for use in uses)
    in_use = bool(uses) and (running or not force)
    return Removal(untagged=tuple(gone), deleted=not left and not in_use)


def _check_uses(record: Record, uses: Sequence[Use], *, force: bool) -> None:
    for use in sorted(uses, key=lambda use: not use.running):
        if use.running or not force:
            kind, how = ("running", "cannot") if use.running else ("stopped", "must")
            raise Conflict(
                f"conflict: unable to delete {_short(record.id)} ({how} be forced) - "
                f"image is being used by {kind} container {use.owner[:12]}"
            )


def _single(record: Record) -> bool:
    """All names are of one repository, and at most one of them is a tag."""
    names = {parse_reference(name).name for name in (*record.tags, *record.digests)}
    return len(names) == 1 and len(record.tags) <= 1


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
