"""How long a lost host is felt: a worker's tasks elsewhere, a service after the leader's loss.

A host is lost by a power cut, which may or may not let its connections end, or by its cable,
which does not. Each loss is repeated, on one cluster of three
managers and two workers, and brought back before the next.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from scripts.benchmarks.host import ROOT, Host, sandbox, until

REPLICAS = 20


def failover(rounds: int) -> dict[str, Any]:
    """Seconds from the power cut, sorted."""
    with sandbox(3, 2) as hosts:
        lab = _Lab(hosts)
        victims = [("w1", "w2")[number % 2] for number in range(rounds)]
        lost = [lab.lose_worker(each, ("kill",), ("start",)) for each in victims]
        cut = [lab.lose_worker(each, ("link", "down"), ("link", "up")) for each in victims]
        leaders = [lab.lose_leader(1, ("kill",), ("start",)) for _ in range(rounds)]
        # One replica a host: what a new leader counts on the lost host for comes late.
        alone = [lab.lose_leader(5, ("link", "down"), ("link", "up")) for _ in range(rounds)]
    return {
        "worker_killed": _told(lost),
        "worker_cut_off": _told(cut),
        "leader_killed": _told(leaders),
        "leader_cut_off": _told(alone),
    }


def _told(seconds: list[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "median_s": round(ordered[len(ordered) // 2], 2),
        "worst_s": round(ordered[-1], 2),
        "all_s": [round(each, 2) for each in ordered],
    }


class _Lab:
    def __init__(self, hosts: list[Host]) -> None:
        # Directories are <sandbox>/<host>/run.
        self._name = hosts[0].run.parent.parent.name
        self._hosts = {host.run.parent.name: host for host in hosts}

    def lose_worker(self, victim: str, lose: Sequence[str], mend: Sequence[str]) -> float:
        """Until as many tasks run on the other hosts as ran before."""
        at = self._hosts["m1"]
        at.create("many", REPLICAS, "demo/sleep:1")
        until(lambda: at.running("many") == REPLICAS, "all run")
        lost = _node(at, victim)
        began = time.monotonic()
        self._sandbox(victim, *lose)
        until(lambda: _elsewhere(at, "many", lost) == REPLICAS, "all run elsewhere")
        seconds = time.monotonic() - began
        self._return(at, victim, *mend)
        at.ask("DELETE", "/services/many")
        return seconds

    def lose_leader(self, replicas: int, lose: Sequence[str], mend: Sequence[str]) -> float:
        """Until a service runs that was created right after."""
        at = self._hosts["m1"]
        victim = _leader(at)
        other = next(host for host in ("m1", "m2", "m3") if host != victim)
        at = self._hosts[other].anew()
        began = time.monotonic()
        self._sandbox(victim, *lose)
        at.create("after", replicas, "demo/sleep:1")
        until(lambda: at.running("after") == replicas, "all run")
        seconds = time.monotonic() - began
        self._return(at, victim, *mend)
        at.ask("DELETE", "/services/after")
        return seconds

    def _return(self, at: Host, victim: str, *mend: str) -> None:
        self._sandbox(victim, *mend)
        until(lambda: _state(at, victim) == ("ready", "reachable"), f"{victim} is back")
        self._hosts[victim] = back = self._hosts[victim].anew()
        if victim.startswith("m"):
            until(back.serves, f"the manager of {victim} is back")

    def _sandbox(self, host: str, verb: str, *words: str) -> None:
        command = [sys.executable, "-m", "shoal.cli", "sandbox", verb, host, *words]
        subprocess.run([*command, "--name", self._name], check=True, cwd=ROOT)


def _nodes(at: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = at.ask("GET", "/nodes")
    return [node for node in found if node.get("Description", {}).get("Hostname")]


def _state(at: Host, hostname: str) -> tuple[str, str]:
    for node in _nodes(at):
        if node["Description"]["Hostname"] == hostname:
            manager = node.get("ManagerStatus", {}).get("Reachability", "reachable")
            return node["Status"]["State"], manager
    return "", ""


def _node(at: Host, hostname: str) -> str:
    return next(n["ID"] for n in _nodes(at) if n["Description"]["Hostname"] == hostname)


def _leader(at: Host) -> str:
    return next(
        str(node["Description"]["Hostname"])
        for node in _nodes(at)
        if node.get("ManagerStatus", {}).get("Leader")
    )


def _elsewhere(at: Host, service: str, lost: str) -> int:
    filters = msgspec.json.encode({"service": [service], "desired-state": ["running"]})
    tasks = at.ask("GET", f"/tasks?filters={quote(filters)}")
    return sum(
        task["Status"]["State"] == "running" and task.get("NodeID") != lost for task in tasks
    )
