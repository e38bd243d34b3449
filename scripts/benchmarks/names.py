"""How many names one host's agent resolves: containers that ask their name server at once.

The containers are on one network with all the services whose names they ask in turn. The
askers are on the same machine and need processor time too, so what the agent spends on a query
is told beside.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.host import one_host, until, used
from scripts.benchmarks.paths import inside

IMAGE = "demo/sleep:1"
NETWORK = "bench"
ASKER = Path(__file__).parent / "asker.py"
FLOWS = 4
WANTED = 2000.0
"""Queries a second that a host is to answer; `ratio` is what it answers against that."""


def names(services: int, askers: int, seconds: float) -> dict[str, Any]:
    """Answers a second, and their times."""
    with one_host() as host:
        room = {"Config": [{"Subnet": "10.60.0.0/16"}]}
        network = {"Name": NETWORK, "Driver": "overlay", "IPAM": room}
        host.ask("POST", "/networks/create", network)
        asked = [f"s{number}" for number in range(services)]
        for name in asked:
            template = {
                "ContainerSpec": {"Image": IMAGE},
                "Networks": [{"Target": NETWORK}],
            }
            host.create(name, 1, IMAGE, TaskTemplate=template)
        for name in asked:
            until(lambda name=name: host.running(name) == 1, f"{name} runs")  # type: ignore[misc]
        agent = host.pids()["agent"]
        before, began = used(agent), time.monotonic()
        told = _asked(host.container_pids()[:askers], asked, seconds)
        spent, took = used(agent) - before, time.monotonic() - began
    answered = sum(each["answered"] for each in told)
    return {
        "services": services,
        "askers": askers,
        "answered_a_second": round(answered / seconds, 1),
        "ratio": round(answered / seconds / WANTED, 2),
        "failed": sum(each["failed"] for each in told),
        "p50_us": max(each["p50_us"] for each in told),
        "p99_us": max(each["p99_us"] for each in told),
        "agent_us_a_query": round(spent * 1e6 / answered, 1),
        "agent_percent": round(100 * spent / took, 1),
    }


def _asked(pids: list[int], names_: list[str], seconds: float) -> list[dict[str, Any]]:
    words = [sys.executable, str(ASKER), str(seconds), str(FLOWS), *names_]
    running = [
        subprocess.Popen(inside(pid, *words), stdout=subprocess.PIPE, text=True) for pid in pids
    ]
    told = [each.communicate()[0] for each in running]
    if any(each.returncode for each in running):
        raise SystemExit("a container could not ask")
    return [json.loads(each) for each in told]
