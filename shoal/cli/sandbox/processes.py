"""Finding and ending the processes of a host, by kernel facts and not by their names.

A process belongs to a host if it is in one of the host's control groups, descends from such a
one, or lives in a network namespace of the host. Called by `lifecycle`; never ends what it did
not find by one of these.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from shoal.cli.sandbox import cgroups, mounts, network
from shoal.cli.sandbox.plan import HostPlan
from shoal.model.errors import Internal

DAEMONS = ("host", "agent", "manager", "etcd")


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not.

    Of a process that is being killed, the first thread may have ended while others have not.
    """
    state = _state(pid)
    return state not in ("", "Z", "X") or (state == "Z" and _threads(pid) > 1)


def daemons(host: HostPlan) -> dict[str, int]:
    """The daemons that run now, by name, as the host process wrote them down.

    A process is only believed in while it is in the host's control groups: a number in a file
    outlives its process, and may be somebody else's by now.
    """
    try:
        written = msgspec.json.decode((host.run / "pids.json").read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    ours = cgroups.members(host.cgroup) | cgroups.members(host.container_cgroup)
    known = written if isinstance(written, dict) else {}
    return {
        name: known[name]
        for name in DAEMONS
        if isinstance(known.get(name), int) and known[name] in ours and is_alive(known[name])
    }


def supervisor(host: HostPlan) -> int | None:
    """The host process, as noted when it was started: known before it wrote its pids."""
    try:
        pid = int((host.directory / "host.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    ours = cgroups.members(host.cgroup) | cgroups.members(host.container_cgroup)
    return pid if pid in ours and is_alive(pid) else None


def everything_of(host: HostPlan) -> set[int]:
    """All processes of the host, containers and their monitors included."""
    found = cgroups.members(host.cgroup) | cgroups.members(host.container_cgroup)
    namespaces = {_inode(path) for path in network_namespaces(host)} - {0}
    parents: dict[int, int] = {}
    for pid in _all_pids():
        parents[pid] = _parent(pid)
        if namespaces and _inode(Path(f"/proc/{pid}/ns/net")) in namespaces:
            found.add(pid)
    found |= _descendants(found, parents)
    return {pid for pid in found if is_alive(pid)} - {os.getpid()}


def network_namespaces(host: HostPlan) -> list[Path]:
    """The host's own namespace and those its agent made for containers."""
    paths = [network.NETNS_DIRECTORY / host.netns, *container_namespaces(host)]
    return paths + [path for path in mounts.below(host.directory) if path.is_file()]


def container_namespaces(host: HostPlan) -> list[Path]:
    """Namespaces with the host's instance before their name."""
    directory = network.NETNS_DIRECTORY
    if not directory.is_dir():
        return []
    prefixes = tuple(
        f"{lead}{host.instance}{rest}" for lead in ("", "shoal-") for rest in ("-", ".", "_")
    )
    return [entry for entry in directory.iterdir() if entry.name.startswith(prefixes)]


def kill_until_none(find: Callable[[], Iterable[int]], what: str, seconds: float = 15) -> None:
    """SIGKILL what is found, again and again, until nothing is found any more.

    Gives up when they have not become fewer for so long: hundreds take their time.
    """
    fewest, deadline = None, 0.0
    while found := set(find()):
        if fewest is None or len(found) < fewest:
            fewest, deadline = len(found), time.monotonic() + seconds
        for pid in found:
            signal_to(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Internal(f"processes of {what} do not end: {sorted(found)}")
        wait_gone(found, 0.2)


def signal_to(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that ended meanwhile is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_gone(pids: Iterable[int], seconds: float) -> bool:
    """Wait until none of the processes runs; False if some still does when the time is up."""
    deadline = time.monotonic() + seconds
    left = set(pids)
    while left := {pid for pid in left if is_alive(pid)}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _descendants(roots: set[int], parents: dict[int, int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
