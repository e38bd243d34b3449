"""The words of `scripts/bench`."""

import argparse
import json

from scripts.benchmarks import failover, idle, memory, network, schedule, services


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
    asked = parser.parse_args()
    match asked.what:
        case "start":
            found = services.start(asked.replicas)
        case "remove":
            found = services.remove(asked.replicas)
        case "update":
            found = services.update(asked.replicas)
        case "memory":
            found = memory.memory(asked.replicas)
        case "idle":
            found = idle.idle(asked.replicas, asked.seconds)
        case "network":
            found = network.network(asked.rounds, asked.seconds)
        case "failover":
            found = failover.failover(asked.rounds)
        case _:
            found = schedule.schedule(asked.tasks, asked.nodes, asked.more, asked.passes)
    print(json.dumps(found))
    return 0
