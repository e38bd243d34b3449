"""Control groups: which layout, and whether all controllers that limits need are there."""

from collections.abc import Iterable
from pathlib import Path

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning

_NEEDED = {"cpu": "--cpus", "memory": "--memory", "pids": "--pids-limit"}
_WANTED = {"cpuset": "--cpuset-cpus", "io": "--blkio-weight"}


def control_groups(ground: Ground) -> Iterable[Finding]:
    """Look at the mounts and, on v2, at what the root offers."""
    del ground
    mounts = Path("/proc/self/mounts").read_text()
    unified = next(
        (line.split()[1] for line in mounts.splitlines() if line.split()[2] == "cgroup2"), ""
    )
    file = Path(unified) / "cgroup.controllers"
    offered = file.read_text() if unified and file.exists() else ""
    return judge(mounts, offered)


def judge(mounts: str, offered: str) -> Iterable[Finding]:
    """`offered` is cgroup.controllers of the v2 root, empty where there is none."""
    kinds = [line.split() for line in mounts.splitlines()]
    v1 = {
        option
        for _, _, kind, options, *_ in kinds
        if kind == "cgroup"
        for option in options.split(",")
    }
    v2 = any(kind == "cgroup2" for _, _, kind, *_ in kinds)
    if not v1 and not v2:
        yield problem(
            "no control groups are mounted: containers cannot be limited nor found",
            "mount them: `mount -t cgroup2 none /sys/fs/cgroup`",
        )
        return
    v1 = {"io" if name == "blkio" else name for name in v1}
    controllers = v1 if v1 - {"rw", "name=systemd"} else set(offered.split())
    layout = "v2" if controllers is not v1 else "hybrid (v1 controllers)" if v2 else "v1"
    missing = {**_NEEDED, **_WANTED}.keys() - controllers
    grave = sorted(missing & _NEEDED.keys())
    for name in grave:
        yield problem(
            f"the {name} controller is missing ({layout}): {_NEEDED[name]} cannot be kept",
            _enable(name),
        )
    for name in sorted(missing - set(grave)):
        yield warning(
            f"the {name} controller is missing ({layout}): {_WANTED[name]} has no effect",
            _enable(name),
        )
    if v1 and "freezer" not in v1 and controllers is v1:
        yield warning("the freezer is missing: containers cannot be paused", _enable("freezer"))
    if not missing:
        yield ok(f"control groups are {layout}, with all controllers")


def _enable(name: str) -> str:
    if name == "memory":
        return "boot with `cgroup_enable=memory`, or mount the memory controller"
    return f"boot a kernel with the {name} controller, or mount it"
