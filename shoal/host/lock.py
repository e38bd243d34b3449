"""One host process a directory. The lock is held by the host and, through it, by its children.

So a host that starts after another was killed waits until the last of that one's children is
gone: a second etcd or manager can never meet a first. Called once, by `shoal.host.run`.
"""

import fcntl
import os
import time
from pathlib import Path

from shoal.model.errors import FailedPrecondition

# The kernel ends orphans at once; an etcd in the middle of a slow fsync takes longer.
_PATIENCE = 10.0
_LOOK = 0.02


def lock_directory(directory: Path) -> int:
    """Lock it for this process and its forks; the descriptor is to stay open.

    A living holder is refused at once; the remains of a dead one are waited for.
    """
    path = directory / "host.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _PATIENCE
    while not _try(descriptor):
        holder = os.pread(descriptor, 64, 0).decode(errors="replace")
        if _lives(holder):
            os.close(descriptor)
            raise FailedPrecondition(
                f"{directory} belongs to the host process {holder.split()[0]}, which is "
                f"running: stop it, or give this one directories of its own"
            )
        if time.monotonic() > until:
            os.close(descriptor)
            raise FailedPrecondition(
                f"{directory} is still held by children of a host process that is gone: "
                f"end them (`fuser {path}` names them) and start again"
            )
        time.sleep(_LOOK)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {_start_time(os.getpid())}".encode(), 0)
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(holder: str) -> bool:
    pid, _, start = holder.partition(" ")
    return pid.isdecimal() and _start_time(int(pid)) == start


def _start_time(pid: int) -> str:
    """The kernel's start time of a process, which tells it from a later one of the same pid."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
