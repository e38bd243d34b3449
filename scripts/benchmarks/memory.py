"""Memory of all daemons and monitors of a host: proportional set sizes, in MB."""

import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.host import Host, monitors, one_host, until


def memory(replicas: int) -> dict[str, Any]:
    """A single manager host, idle and with containers."""
    with one_host() as host:
        time.sleep(3)  # what start-up needed is given back
        idle = _daemons(host)
        host.create("bench", replicas, "demo/sleep:1")
        until(lambda: host.running("bench") == replicas, "all running")
        time.sleep(3)
        daemons = _daemons(host)
        held = round(sum(proportional(pid) for pid in monitors(host)), 1)
    return {
        "idle_mb": round(sum(idle.values()), 1),
        "busy_mb": round(sum(daemons.values()) + held, 1),
        "containers": replicas,
        "idle": idle,
        "busy": {**daemons, "conmon": held},
    }


def _daemons(host: Host) -> dict[str, float]:
    return {name: proportional(pid) for name, pid in host.pids().items() if pid}


def proportional(pid: int) -> float:
    """The proportional set size of a process, in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
