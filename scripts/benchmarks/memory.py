"""Memory of all daemons and monitors of a host: proportional set sizes, in MB."""

import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.host import Host, one_host, until


def memory(replicas: int) -> dict[str, Any]:
    """A single manager host, idle and with containers."""
    with one_host() as host:
        time.sleep(3)  # what start-up needed is given back
        idle = _daemons(host)
        host.create("bench", replicas, "demo/sleep:1")
        until(lambda: host.running("bench") == replicas, "all running")
        time.sleep(3)
        daemons, monitors = _daemons(host), _monitors(host)
    return {
        "idle_mb": round(sum(idle.values()), 1),
        "busy_mb": round(sum(daemons.values()) + monitors, 1),
        "containers": replicas,
        "idle": idle,
        "busy": {**daemons, "conmon": monitors},
    }


def _daemons(host: Host) -> dict[str, float]:
    return {name: _pss(pid) for name, pid in host.pids().items() if pid}


def _monitors(host: Host) -> float:
    """All conmons whose command line names this host's directories."""
    mine, total = str(host.run.parent), 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"conmon") and mine.encode() in b" ".join(command):
            total += _pss(int(entry.name))
    return round(total, 1)


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
