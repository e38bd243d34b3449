"""What a cluster costs while nothing changes: processor time of all its daemons and monitors.

As percent of one core, a host, over a time in which nobody asks anything: a single manager with
containers, then three managers and two workers with as many. A host's share of the machine's
etcd, agents, managers and host processes is listed by name.
"""

import time
from typing import Any

from scripts.benchmarks.host import Host, monitors, sandbox, until, used

SETTLE = 12.0  # seconds after which what a start left to do is done


def idle(replicas: int, seconds: float) -> dict[str, Any]:
    """Percent of one core over that many seconds."""
    return {
        "containers": replicas,
        "seconds": seconds,
        "single": _idle(1, 0, replicas, seconds),
        "cluster": _idle(3, 2, replicas, seconds),
    }


def _idle(managers: int, workers: int, replicas: int, seconds: float) -> dict[str, Any]:
    with sandbox(managers, workers) as hosts:
        first = hosts[0]
        first.create("bench", replicas, "demo/sleep:1")
        until(lambda: first.running("bench") == replicas, "all running")
        time.sleep(SETTLE)
        before, began = [_used(host) for host in hosts], time.monotonic()
        time.sleep(seconds)
        after, took = [_used(host) for host in hosts], time.monotonic() - began
    percent = [
        {name: round(100 * (end[name] - start[name]) / took, 2) for name in end}
        for start, end in zip(before, after, strict=True)
    ]
    return {
        "percent": round(max(sum(host.values()) for host in percent), 2),
        "hosts": percent,
    }


def _used(host: Host) -> dict[str, float]:
    """Seconds of processor time so far, children that were waited for included."""
    daemons = {name: pid for name, pid in host.pids().items() if pid}
    found = {name: used(pid, children=True) for name, pid in daemons.items()}
    return {**found, "conmon": sum(used(pid, children=True) for pid in monitors(host))}
