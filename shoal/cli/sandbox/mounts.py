"""What is mounted below a directory, and taking it away. Called by `lifecycle`."""

import ctypes
import os
from pathlib import Path

from shoal.model.errors import Internal

_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def below(directory: Path) -> list[Path]:
    """Mount points at or below the directory, in the order in which they were mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split(" ")[4]
        for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n")):
            where = where.replace(octal, character)
        path = Path(where.replace("\\134", "\\"))
        if path == directory or directory in path.parents:
            found.append(path)
    return found


def detach(path: Path) -> None:
    """Unmount at once, also where something still holds it open."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if path in below(path):
            raise Internal(f"{path} could not be unmounted: {os.strerror(number)}")


def detach_below(directory: Path) -> None:
    for path in reversed(below(directory)):
        detach(path)
