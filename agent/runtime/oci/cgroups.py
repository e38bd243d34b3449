"""Where a container's cgroup lies and what it used: cgroup v1, hybrid and v2 behind one face.

runc makes the cgroups and writes the limits; this module finds them, reads them, moves conmon,
and removes what is left. On a hybrid host the controllers are v1's, `unified` is a label only.
The driver `agent.runtime.oci.runtime` calls it; the engine asks `detect` for its bundles.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from agent.runtime.runtime import BlockUse, Stats
from shoal.common.clock import Clock

ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 62
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Mode(StrEnum):
    """How the host has its cgroups."""

    V1 = "v1"
    HYBRID = "hybrid"
    V2 = "v2"


class Hierarchies(msgspec.Struct, frozen=True, kw_only=True):
    """The mounted hierarchies by controller; `unified` is v2's, alone or beside v1."""

    mode: Mode
    mounts: Mapping[str, Path]

    def directories(self, path: str) -> tuple[Path, ...]:
        """The directories of one cgroup, in every hierarchy, whether they exist or not."""
        relative = path.lstrip("/")
        return tuple(mount / relative for mount in dict.fromkeys(self.mounts.values()))

    def directory(self, controller: str, path: str) -> Path:
        """The directory in which this controller's files of a cgroup are."""
        mount = self.mounts.get(controller) or self.mounts.get("unified") or ROOT
        return mount / path.lstrip("/")

    @property
    def v2(self) -> bool:
        """Whether the controllers are those of v2."""
        return self.mode is Mode.V2


def detect(mountinfo: str | None = None) -> Hierarchies:
    """Read the hierarchies from this process's mounts."""
    text = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text()
    mounts: dict[str, Path] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        place = Path(left.split(" ")[4])
        if kind == "cgroup2":
            mounts.setdefault("unified", place)
        elif kind == "cgroup":
            for option in options.split(","):
                if option not in {"rw", "ro", "xattr", "clone_children"}:
                    mounts.setdefault(option.removeprefix("name="), place)
    for key in [key for key in mounts if key.startswith(("release_agent", "noprefix"))]:
        del mounts[key]
    mode = Mode.HYBRID if "unified" in mounts else Mode.V1
    if not mounts.keys() - {"unified"}:
        mode = Mode.V2
    return Hierarchies(mode=mode, mounts=mounts)


class Group:
    """A cgroup that many processes are moved into; made where it is missing, held open.

    In hierarchies that cannot take a process (a cpuset without processors, say) it stays.
    """

    def __init__(self, cgroups: Hierarchies, path: str) -> None:
        self._files: list[int] = []
        for directory in cgroups.directories(path):
            if not directory.exists():
                directory.mkdir(parents=True, exist_ok=True)
                _inherit_cpuset(directory)
            with contextlib.suppress(OSError):
                self._files.append(
                    os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                )

    def take(self, pid: int) -> None:
        """Move a process here. The kernel may take 5 ms for it: not on the event loop."""
        for file in self._files:
            with contextlib.suppress(OSError):
                os.write(file, str(pid).encode())

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)
        self._files.clear()


def _inherit_cpuset(directory: Path) -> None:
    """v1 gives a new cpuset no processors; nothing can enter it until it has some."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = directory / name
        for child in (directory.parent / name, file):
            if child.exists() and not child.read_text().strip() and child.parent != ROOT:
                above = child.parent.parent / name
                if above.exists() and above.read_text().strip():
                    child.write_text(above.read_text())


def processes(cgroups: Hierarchies, path: str) -> tuple[int, ...]:
    """Pids in a cgroup and below it, ascending."""
    directory = cgroups.directory("pids" if not cgroups.v2 else "unified", path)
    found: set[int] = set()
    for place, _, _ in os.walk(directory):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in (Path(place) / "cgroup.procs").read_text().split())
    return tuple(sorted(found))


def kill_all(cgroups: Hierarchies, path: str, number: int = signal.SIGKILL) -> None:
    """Signal every process of a cgroup."""
    for pid in processes(cgroups, path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def remove(cgroups: Hierarchies, path: str) -> bool:
    """Remove a cgroup and those made below it; False where something still lives in it."""
    gone = True
    for directory in cgroups.directories(path):
        try:
            directory.rmdir()  # the usual case, without a walk
        except FileNotFoundError:
            continue
        except OSError:
            for place, _, _ in os.walk(directory, topdown=False):
                with contextlib.suppress(OSError):
                    Path(place).rmdir()
            gone = gone and not directory.exists()
    return gone


def frozen(cgroups: Hierarchies, path: str) -> bool:
    """Whether its processes are paused."""
    if cgroups.v2:
        return _text(cgroups.directory("unified", path) / "cgroup.freeze").strip() == "1"
    return _text(cgroups.directory("freezer", path) / "freezer.state").strip() == "FROZEN"


def oom_kills(cgroups: Hierarchies, path: str) -> int:
    """How often the kernel killed in it for want of memory; 0 where nobody can say."""
    name = "memory.events" if cgroups.v2 else "memory.oom_control"
    return _pairs(cgroups.directory("memory", path) / name).get("oom_kill", 0)


def read_stats(cgroups: Hierarchies, path: str, clock: Clock) -> Stats:
    """All counters of a cgroup at this moment; missing controllers count as 0."""
    return (_stats_v2 if cgroups.v2 else _stats_v1)(cgroups, path, clock)


def _stats_v1(cgroups: Hierarchies, path: str, clock: Clock) -> Stats:
    cpu = _pairs(cgroups.directory("cpu", path) / "cpu.stat")
    accounting = cgroups.directory("cpuacct", path)
    times = _pairs(accounting / "cpuacct.stat")
    memory = cgroups.directory("memory", path)
    pids = cgroups.directory("pids", path)
    blocks = cgroups.directory("blkio", path)
    return Stats(
        read_at=clock.now(),
        cpu_total=_number(accounting / "cpuacct.usage"),
        cpu_user=times.get("user", 0) * _TICK,
        cpu_system=times.get("system", 0) * _TICK,
        cpu_periods=cpu.get("nr_periods", 0),
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        cpu_throttled_time=cpu.get("throttled_time", 0),
        memory_usage=_number(memory / "memory.usage_in_bytes"),
        memory_max_usage=_number(memory / "memory.max_usage_in_bytes"),
        memory_limit=_number(memory / "memory.limit_in_bytes"),
        memory_failures=_number(memory / "memory.failcnt"),
        memory_stat=_pairs(memory / "memory.stat"),
        pids=_number(pids / "pids.current"),
        pids_limit=_number(pids / "pids.max"),
        blocks=_blocks_v1(blocks),
    )


def _stats_v2(cgroups: Hierarchies, path: str, clock: Clock) -> Stats:
    place = cgroups.directory("unified", path)
    cpu = _pairs(place / "cpu.stat")
    return Stats(
        read_at=clock.now(),
        cpu_total=cpu.get("usage_usec", 0) * 1000,
        cpu_user=cpu.get("user_usec", 0) * 1000,
        cpu_system=cpu.get("system_usec", 0) * 1000,
        cpu_periods=cpu.get("nr_periods", 0),
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        cpu_throttled_time=cpu.get("throttled_usec", 0) * 1000,
        memory_usage=_number(place / "memory.current"),
        memory_max_usage=_number(place / "memory.peak"),
        memory_limit=_number(place / "memory.max"),
        memory_failures=_pairs(place / "memory.events").get("max", 0),
        memory_stat=_pairs(place / "memory.stat"),
        pids=_number(place / "pids.current"),
        pids_limit=_number(place / "pids.max"),
        blocks=tuple(_blocks_v2(_text(place / "io.stat"))),
    )


def _blocks_v1(directory: Path) -> tuple[BlockUse, ...]:
    served = _by_device(_text(directory / "blkio.throttle.io_service_bytes_recursive"))
    operations = _by_device(_text(directory / "blkio.throttle.io_serviced_recursive"))
    return tuple(
        BlockUse(
            major=major, minor=minor, op=op, bytes=count, operations=operations.get(key, 0)
        )
        for key, count in served.items()
        for major, minor, op in [key]
    )


def _by_device(text: str) -> dict[tuple[int, int, str], int]:
    found: dict[tuple[int, int, str], int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and ":" in words[0]:
            major, minor = words[0].split(":")
            found[int(major), int(minor), words[1].lower()] = int(words[2])
    return found


def _blocks_v2(text: str) -> Iterable[BlockUse]:
    for line in text.splitlines():
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        values = dict(word.split("=", 1) for word in rest.split() if "=" in word)
        for op, size, operations in (("read", "rbytes", "rios"), ("write", "wbytes", "wios")):
            yield BlockUse(
                major=int(major),
                minor=int(minor),
                op=op,
                bytes=int(values.get(size, 0)),
                operations=int(values.get(operations, 0)),
            )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # a controller that is absent or switched off
        return ""


def _number(file: Path) -> int:
    text = _text(file).strip()
    number = int(text) if text.isdigit() else 0
    return number if number < _UNLIMITED else 0


def _pairs(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(file).splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2}
