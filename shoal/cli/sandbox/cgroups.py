"""Control groups by which a host's processes are found again, whatever the machine's layout.

A host's daemons and whatever was started inside it by `exec` live in one group of one
hierarchy, which is enough to find them; containers live in groups the agent made under every
hierarchy. Called by `boot` (joining) and `lifecycle` (finding, removing).
"""

import os
import time
from pathlib import Path

from shoal.model.errors import Internal


def hierarchies() -> list[Path]:
    """Where control groups are mounted: one path on v2, several on v1, both kinds on hybrid."""
    found: list[tuple[bool, Path]] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            found.append((kind != "cgroup2", Path(where)))
    if not found:
        raise Internal("no control groups are mounted; mount cgroup2 on /sys/fs/cgroup")
    return [path for _, path in sorted(found)]


def join(group: str, pid: int) -> None:
    """Put a process into the group, in the first hierarchy (v2 where there is one)."""
    directory = hierarchies()[0] / group
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text(f"{pid}\n")


def members(group: str) -> set[int]:
    """Every process in the group and below it, in any hierarchy."""
    found: set[int] = set()
    for root in hierarchies():
        for directory, _, files in os.walk(root / group):
            if "cgroup.procs" in files:
                found.update(_read(Path(directory) / "cgroup.procs"))
    return found


def _read(path: Path) -> set[int]:
    try:
        return {int(line) for line in path.read_text().split()}
    except OSError:  # removed meanwhile, or a threaded group, whose parent lists the same
        return set()


def remove(group: str) -> list[Path]:
    """Remove the empty group and all below it; returns what could not be removed."""
    left = []
    for root in hierarchies():
        for directory, _, _ in os.walk(root / group, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                left.append(Path(directory))
    return left


def remove_soon(group: str, seconds: float = 2) -> list[Path]:
    """The same, with patience: the kernel lets go of ended processes a little later."""
    deadline = time.monotonic() + seconds
    while left := remove(group):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return left


def remove_if_empty(group: str) -> None:
    """Remove a shared parent unless somebody else still uses it."""
    for root in hierarchies():
        try:
            (root / group).rmdir()
        except OSError:
            continue
