"""What is mounted below a directory, and taking it away. Called by `lifecycle` and `boot`."""

import ctypes
import os
from pathlib import Path

from shoal.model.errors import Internal

_MNT_DETACH = 2
_MS_NOSUID, _MS_NODEV = 2, 4
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


def tmpfs(path: Path) -> None:
    """Mount a tmpfs there, unless there is one. It takes memory only as it is filled."""
    path.mkdir(parents=True, exist_ok=True)
    if os.path.ismount(path):
        return
    flags = _MS_NOSUID | _MS_NODEV
    if _libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, b"mode=755") != 0:
        number = ctypes.get_errno()
        raise Internal(f"no tmpfs could be mounted on {path}: {os.strerror(number)}")


def detach(path: Path) -> None:
    """Unmount at once, also where something still holds it open."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if path in below(path):
            raise Internal(f"{path} could not be unmounted: {os.strerror(number)}")


def detach_below(directory: Path) -> None:
    for path in reversed(below(directory)):
        detach(path)
