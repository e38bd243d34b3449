"""Limits of the kernel that a host with many containers runs into."""

from collections.abc import Iterable
from pathlib import Path

from shoal.cli.doctor.finding import Finding, Ground, ok, warning

_LEAST = {
    "fs/inotify/max_user_instances": 128,
    "kernel/pid_max": 32768,
    "fs/file-max": 100_000,
}


def limits(ground: Ground) -> Iterable[Finding]:
    """A few settings under /proc/sys."""
    del ground
    for name, least in _LEAST.items():
        try:
            number = int((Path("/proc/sys") / name).read_text())
        except (OSError, ValueError):
            continue
        yield judge(name.replace("/", "."), number, least)


def judge(name: str, number: int, least: int) -> Finding:
    """Whether one setting is high enough."""
    if number >= least:
        return ok(f"{name} is {number}")
    return warning(f"{name} is {number}, which is little", f"`sysctl -w {name}={least}`")
