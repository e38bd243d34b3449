"""The filters over nodes: which are feasible, and a sentence about those that are not. Pure."""

from collections.abc import Sequence

from manager.scheduler.filters import (
    FILTERS,
    Demand,
    Filter,
    constraints,
    host_port,
    max_replicas,
    platform,
    ready,
    resources,
    subnet,
)
from manager.scheduler.nodeinfo import Load
from shoal.model.objects import Node

ENOUGH = 500
"""Feasible nodes after which no further ones are looked at, until these are used up."""


def needed(demand: Demand) -> tuple[Filter, ...]:
    """The filters that can refuse anything to this demand, in order."""
    wanted = demand.resources
    asked: dict[Filter, bool] = {
        ready: True,
        subnet: True,
        resources: bool(wanted.nano_cpus or wanted.memory_bytes or wanted.generic_resources),
        constraints: bool(demand.constraints or demand.bad),
        platform: bool(demand.platforms),
        host_port: bool(demand.host_ports),
        max_replicas: bool(demand.max_replicas),
    }
    return tuple(one for one in FILTERS if asked[one])


def refusal(demand: Demand, node: Node, load: Load, filters: Sequence[Filter]) -> str | None:
    """Why a node is not feasible; None if it is."""
    for one in filters:
        sentence = one(demand, node, load)
        if sentence is not None:
            return sentence
    return None


def explain(refusals: Sequence[str]) -> str:
    """All refusals in one sentence with counts, the most frequent first.

    >>> explain(["node is down", "not enough memory", "not enough memory"])
    'no suitable node (2 of 3: not enough memory; 1 of 3: node is down)'
    """
    if not refusals:
        return "no suitable node (the cluster has no nodes)"
    counts: dict[str, int] = {}
    for sentence in refusals:
        counts[sentence] = counts.get(sentence, 0) + 1
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    parts = [f"{count} of {len(refusals)}: {sentence}" for sentence, count in ranked]
    return f"no suitable node ({'; '.join(parts)})"
