"""What a container has changed of its image: its writable layer against the others."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MODIFIED, ADDED, DELETED = 0, 1, 2
_OPAQUE = "trusted.overlay.opaque"


def find(upper: Path, layers: Sequence[Path], mounted: Iterable[str]) -> list[tuple[int, str]]:
    """Kind and path of every difference, in the order of paths.

    Places where something is `mounted` are the runtime's doing, if they were made empty.
    """
    if not upper.exists():
        return []
    skipped = set(mounted) | {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    skipped |= {"/dev", "/proc", "/sys"}
    every = sorted(_walk(upper, layers, ""), key=lambda each: each[1])
    found = [(kind, path) for kind, path in every if not (kind == ADDED and path in skipped)]
    return [each for each in found if not _only_around(each, every, found)]


Change = tuple[int, str]


def _only_around(change: Change, every: Sequence[Change], found: Sequence[Change]) -> bool:
    """A directory that counts as modified only because something was mounted in it."""
    inside = change[1] + "/"
    held = [path for _, path in every if path.startswith(inside)]
    return (
        change[0] == MODIFIED
        and bool(held)
        and not any(path.startswith(inside) for _, path in found)
    )


def _walk(upper: Path, layers: Sequence[Path], below: str) -> Iterator[tuple[int, str]]:
    with os.scandir(upper / below) as entries:
        listed = list(entries)
    for entry in listed:
        inside = f"{below}/{entry.name}".lstrip("/")
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            yield DELETED, f"/{inside}"
            continue
        known = _below(layers, inside)
        yield (MODIFIED if known else ADDED), f"/{inside}"
        if stat.S_ISDIR(found.st_mode):
            opaque = _OPAQUE in os.listxattr(entry.path, follow_symlinks=False)
            yield from _walk(upper, () if opaque else layers, inside)


def _below(layers: Sequence[Path], inside: str) -> bool:
    """Whether the image has the path: the topmost layer that speaks of it decides."""
    for layer in layers:
        try:
            found = os.lstat(layer / inside)
        except (FileNotFoundError, NotADirectoryError):
            if _hidden(layer, inside):
                return False
            continue
        return not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0)
    return False


def _hidden(layer: Path, inside: str) -> bool:
    """A parent that is opaque, or gone, in this layer hides what is below it."""
    for parent in Path(inside).parents:
        if parent == Path("."):
            return False
        place = layer / parent
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(found.st_mode):
            return True
        if _OPAQUE in os.listxattr(place, follow_symlinks=False):
            return True
    return False
