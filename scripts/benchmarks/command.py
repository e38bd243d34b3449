"""The words of `scripts/bench`."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from scripts.benchmarks import (
    endpoints,
    failover,
    idle,
    memory,
    names,
    network,
    schedule,
    services,
)


def main() -> int:
    """Measure one thing and print it as one JSON object."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    words = parser.add_subparsers(dest="what", required=True)
    for name, replicas in (("start", 50), ("remove", 50), ("update", 20), ("memory", 50)):
        words.add_parser(name).add_argument("--replicas", type=int, default=replicas)
    quiet = words.add_parser("idle")
    quiet.add_argument("--replicas", type=int, default=50)
    quiet.add_argument("--seconds", type=float, default=60.0)
    many = words.add_parser("schedule")
    for flag, default in (("tasks", 100_000), ("nodes", 5_000), ("more", 100), ("passes", 200)):
        many.add_argument(f"--{flag}", type=int, default=default)
    between = words.add_parser("network")
    between.add_argument("--rounds", type=int, default=5)
    between.add_argument("--seconds", type=float, default=2.0)
    words.add_parser("failover").add_argument("--rounds", type=int, default=10)
    ends = words.add_parser("endpoints")
    for flag, default in (("few", 10), ("many", 200), ("rounds", 10)):
        ends.add_argument(f"--{flag}", type=int, default=default)
    resolved = words.add_parser("names")
    resolved.add_argument("--services", type=int, default=20)
    resolved.add_argument("--askers", type=int, default=4)
    resolved.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    found = _MEASURES[asked.what](asked)
    print(json.dumps(found))
    return 0


_MEASURES: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "start": lambda asked: services.start(asked.replicas),
    "remove": lambda asked: services.remove(asked.replicas),
    "update": lambda asked: services.update(asked.replicas),
    "memory": lambda asked: memory.memory(asked.replicas),
    "idle": lambda asked: idle.idle(asked.replicas, asked.seconds),
    "network": lambda asked: network.network(asked.rounds, asked.seconds),
    "failover": lambda asked: failover.failover(asked.rounds),
    "endpoints": lambda asked: endpoints.endpoints(asked.few, asked.many, asked.rounds),
    "names": lambda asked: names.names(asked.services, asked.askers, asked.seconds),
    "schedule": lambda asked: schedule.schedule(
        asked.tasks, asked.nodes, asked.more, asked.passes
    ),
}
