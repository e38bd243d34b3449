"""The state directory: whose it is, room for it, and a disk that is quick enough for etcd."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning
from shoal.cli.doctor.ports import own_pids

_GIGABYTE = 10**9
LEAST_FREE = 1 * _GIGABYTE
LITTLE_FREE = 5 * _GIGABYTE
SLOW_SYNC = 0.025
"""Half of etcd's heartbeat interval with Shoal's settings: above it, elections come of it."""
_SYNCS = 20


def space(ground: Ground) -> Iterable[Finding]:
    """Bytes and inodes where the state is, or will be."""
    place = _nearest(Path(ground.config.state))
    usage = shutil.disk_usage(place)
    found = os.statvfs(place)
    yield judge_space(str(place), usage.free, usage.total)
    if found.f_files and found.f_favail < found.f_files / 50:
        yield problem(
            f"{place} has {found.f_favail} of {found.f_files} inodes left",
            "remove images and containers that are not used (`docker rmi`, `docker rm`)",
        )


def judge_space(place: str, free: int, total: int) -> Finding:
    """Whether there is room for images, containers and the store."""
    says = f"{place} has {free / _GIGABYTE:.1f} of {total / _GIGABYTE:.1f} GB free"
    helps = "remove images and containers that are not used, or use another disk (`state`)"
    if free < LEAST_FREE:
        return problem(f"{says}: the store may stop to take writes", helps)
    return warning(says, helps) if free < LITTLE_FREE else ok(says)


def ownership(ground: Ground) -> Iterable[Finding]:
    """Whose the state directory is; secrets that others can read."""
    state = Path(ground.config.state)
    if not state.exists():
        return [ok(f"{state} is not there yet: the host makes it")]
    found = [judge_owner(str(state), state.stat().st_uid, state.stat().st_mode)]
    secrets = (state / "identity" / "node.key", state / "manager", state / "etcd")
    found += [judge_secret(str(path), path.stat().st_mode) for path in secrets if path.exists()]
    ours = own_pids(ground.config)
    host = next((pid for pid, name in ours.items() if name == "host"), None)
    found.append(
        ok(f"{state} is in use by the host process {host}")
        if host is not None
        else warning(
            f"no host process runs on {state}",
            "start it: `systemctl start shoal`, or `shoal host`",
        )
    )
    return found


def judge_owner(path: str, owner: int, mode: int) -> Finding:
    """The state directory is root's alone."""
    if owner != 0:
        return problem(f"{path} belongs to user {owner}", f"`chown root: {path}`")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return problem(f"{path} can be written by others than root", f"`chmod 711 {path}`")
    return ok(f"{path} is root's")


def judge_secret(path: str, mode: int) -> Finding:
    """What nobody but root may read."""
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return problem(f"{path} can be read by others than root", f"`chmod go= {path}`")
    return ok(f"{path} is closed to others than root")


def sync(ground: Ground) -> Iterable[Finding]:
    """How long small writes take to be on disk: what etcd's speed hangs on."""
    place = _nearest(Path(ground.config.state))
    taken = []
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            for _ in range(_SYNCS):
                began = time.monotonic()
                os.write(file.fileno(), b"0" * 2300)
                os.fdatasync(file.fileno())
                taken.append(time.monotonic() - began)
    except OSError as error:
        return [problem(f"{place} cannot be written: {error.strerror}", "mount it read-write")]
    return [judge_sync(str(place), sorted(taken)[int(_SYNCS * 0.9)])]


def judge_sync(place: str, seconds: float) -> Finding:
    """The time that nine of ten writes stay under."""
    says = f"a small write to {place} is on disk after {seconds * 1000:.1f} ms (90 % of them)"
    if seconds > SLOW_SYNC:
        return warning(
            f"{says}: managers may lose their leader under load",
            "give managers' state a disk of its own, an SSD if there is one",
        )
    return ok(says)


def _nearest(path: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    return next(each for each in (path, *path.parents) if each.is_dir())
