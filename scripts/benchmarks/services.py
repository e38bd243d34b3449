"""Services on one host: start, remove, update."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.floor import copied_root, start_floor
from scripts.benchmarks.host import Host, one_host, until

IMAGE = "demo/sleep:1"


def start(replicas: int) -> dict[str, Any]:
    """From `service create` to all tasks running, against bare runc."""
    with one_host() as host:
        seconds = _start(host, replicas)
        config, pid = _configuration(host)
        root = copied_root(host.run, pid)
        try:
            floor = start_floor(config, root, replicas)
        finally:
            shutil.rmtree(root)
    return {
        "replicas": replicas,
        "seconds": round(seconds, 3),
        "floor_seconds": round(floor, 3),
        "ratio": round(seconds / floor, 2),
    }


def _start(host: Host, replicas: int) -> float:
    began = time.monotonic()
    host.create("bench", replicas, IMAGE)
    until(lambda: host.running("bench") == replicas, f"{replicas} running tasks")
    return time.monotonic() - began


def _configuration(host: Host) -> tuple[dict[str, Any], int]:
    """The OCI configuration of one of the containers, and its pid."""
    first = host.ask("GET", "/containers/json")[0]["Id"]
    pid = int(host.ask("GET", f"/containers/{first}/json")["State"]["Pid"])
    state = host.run.parent / "state"
    for place in (host.run, state):
        for found in Path(place).rglob("config.json"):
            config: dict[str, Any] = json.loads(found.read_text())
            if first in str(found) and "ociVersion" in config:
                return config, pid
    raise SystemExit("the container's OCI configuration is not where it was expected")


def remove(replicas: int) -> dict[str, Any]:
    """From `service rm` to no container left."""
    with one_host() as host:
        _start(host, replicas)
        began = time.monotonic()
        host.ask("DELETE", "/services/bench")
        until(lambda: host.containers() == 0, "no container left")
        seconds = time.monotonic() - began
    return {"replicas": replicas, "seconds": round(seconds, 3)}


def update(replicas: int) -> dict[str, Any]:
    """A rolling update two at a time without delay, until every task runs the new image."""
    found: dict[str, Any] = {"replicas": replicas, "parallelism": 2}
    for order in ("stop-first", "start-first"):
        with one_host() as host:
            found[order.replace("-", "_") + "_seconds"] = round(
                _update(host, replicas, order), 3
            )
    return found


def _update(host: Host, replicas: int, order: str) -> float:
    config = {"Parallelism": 2, "Order": order, "Monitor": 1_000_000}
    host.create("bench", replicas, "demo/web:1", UpdateConfig=config)
    until(lambda: host.running("bench") == replicas, "all running")
    service = host.ask("GET", "/services/bench")
    spec = service["Spec"]
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "demo/web:2"
    began = time.monotonic()
    host.ask("POST", f"/services/bench/update?version={service['Version']['Index']}", spec)
    until(lambda: _state(host) == "completed", "update completed")
    return time.monotonic() - began


def _state(host: Host) -> str:
    status = host.ask("GET", "/services/bench").get("UpdateStatus") or {}
    return str(status.get("State", ""))
