"""One endpoint of many comes or goes: until every client on every host knows, and its cost.

On one network across five hosts, first with a few services, then with many, and always the same
number of endpoints: what the few services have not is one more without a virtual IP. A change
is a replica more or less of one service. It is timed from the call of the API, and for a
replica that comes from the start of its process too, until the last container's kernel has the
changed virtual IP and the name server on each host answers with the changed addresses. An agent
changes the forwarding entries of its host before any of these.
"""

import random
import time
from datetime import datetime
from statistics import median
from typing import Any
from urllib.parse import quote

import msgspec

from scripts.benchmarks.host import Host, sandbox, until, used
from scripts.benchmarks.memory import proportional
from scripts.benchmarks.witness import Witnesses

IMAGE, NETWORK = "demo/sleep:1", "bench"
REPLICAS = 5
SUBNET = "10.50.0.0/16"
WORKERS = 4
SECONDS, REST, LONG = 30.0, 0.5, 900.0


def endpoints(few: int, many: int, rounds: int) -> dict[str, Any]:
    """The figures with few services and with many, and the ratio of the cost a namespace."""
    with sandbox(1, WORKERS) as hosts:
        pools = {"Config": [{"Subnet": SUBNET}]}
        made = {"Name": NETWORK, "Driver": "overlay", "IPAM": pools}
        hosts[0].ask("POST", "/networks/create", made)
        lab = _Lab(hosts, many * REPLICAS)
        found = {f"{count}_services": lab.stage(count, rounds) for count in (few, many)}
    small, large = found.values()
    return {
        "hosts": 1 + WORKERS,
        **found,
        "ratio": round(large["namespace_us"] / small["namespace_us"], 2),
        "agents_ratio": round(large["agents_namespace_us"] / small["agents_namespace_us"], 2),
    }


class _Change(msgspec.Struct):
    """One change: seconds until the last namespace, and the last name server, had it."""

    rules: float
    names: float
    spread: list[float]
    began: float


class _Lab:
    def __init__(self, hosts: list[Host], endpoints: int) -> None:
        self._hosts = {host.run.parent.name: host for host in hosts}
        self._manager = hosts[0]
        self._endpoints = endpoints
        self._services = 0
        self._create("others", 0, EndpointSpec={"Mode": "dnsrr"})
        self._chance = random.Random(4)  # noqa: S311 - which service is changed

    def stage(self, services: int, rounds: int) -> dict[str, Any]:
        """Have so many services, then change one of them again and again."""
        others = self._endpoints - services * REPLICAS
        if self._services:
            self._scale("others", others)
            until(self._all_run, "the others are less", patience=LONG)
        began, before = time.monotonic(), self._processor()
        running = self._manager.running("others")
        for number in range(self._services, services):
            self._create(f"s{number}", REPLICAS)
        self._scale("others", others)
        added = (services - self._services) * REPLICAS + others - running
        self._services = services
        until(self._all_run, f"{self._endpoints} tasks run", patience=LONG)
        started = time.monotonic() - began
        busy = _spent(before, self._processor())
        witnesses = Witnesses(
            {name: host.container_pids() for name, host in self._hosts.items()}
        )
        try:
            return {
                "endpoints": len(witnesses),
                "started_a_second": round(added * REPLICAS / started, 1),
                "start_cpu_ms": {
                    k: round(v * 1e3 / added / REPLICAS, 1) for k, v in busy.items()
                },
                **self._changes(witnesses, rounds),
                "memory_mb": self._memory(),
            }
        finally:
            witnesses.close()

    def _changes(self, witnesses: Witnesses, rounds: int) -> dict[str, Any]:
        time.sleep(2)  # what the start has left to do
        before = self._processor()
        came, went = [], []
        for _ in range(rounds):
            name = f"s{self._chance.randrange(self._services)}"
            came.append(self._change(witnesses, name, REPLICAS + 1))
            went.append(self._change(witnesses, name, REPLICAS))
        busy = _spent(before, self._processor())
        spread = [each for one in (*came, *went) for each in one.spread]
        changes = 2 * rounds
        return {
            "comes": {**_told(came), "from_start_s": _worst([each.began for each in came])},
            "goes": _told(went),
            "namespace_us": round(median(spread), 1),
            "agents_namespace_us": round(busy["agents"] * 1e6 / changes / len(witnesses), 1),
            "change_cpu_ms": {k: round(v * 1e3 / changes, 1) for k, v in busy.items()},
        }

    def _create(self, name: str, replicas: int, **spec: Any) -> None:
        template = {
            "ContainerSpec": {"Image": IMAGE, "StopGracePeriod": 0},
            "Networks": [{"Target": NETWORK}],
        }
        self._manager.create(name, replicas, IMAGE, TaskTemplate=template, **spec)

    def _scale(self, name: str, replicas: int) -> None:
        service: dict[str, Any] = self._manager.ask("GET", f"/services/{name}")
        spec, version = service["Spec"], service["Version"]["Index"]
        spec["Mode"]["Replicated"]["Replicas"] = replicas
        self._manager.ask("POST", f"/services/{name}/update?version={version}", spec)

    def _change(self, witnesses: Witnesses, name: str, replicas: int) -> _Change:
        ips = self._manager.ask("GET", f"/services/{name}")["Endpoint"]["VirtualIPs"]
        address = ips[-1]["Addr"].partition("/")[0]
        known = self._containers(name)
        witnesses.forget()
        wall, began = time.time_ns() / 1e9, time.monotonic()
        self._scale(name, replicas)
        rules, names = witnesses.watch(address, f"tasks.{name}", replicas, SECONDS)
        fresh = self._containers(name).items() - known.items()
        start = max((began + at - wall for _, at in fresh), default=began)
        until(lambda: len(self._containers(name)) == replicas, "the old one is gone")
        time.sleep(REST)  # the next change begins at rest
        return _Change(
            rules=rules.last() - began,
            names=names.last() - began,
            spread=rules.spread_us(),
            began=max(rules.last(), names.last()) - start,
        )

    def _containers(self, service: str) -> dict[str, float]:
        """Running containers of a service: when each began, by the clock on the wall."""
        label = f"com.docker.swarm.service.name={service}"
        filters = quote(msgspec.json.encode({"label": [label]}))
        return {
            one["Id"]: _wall(host.ask("GET", f"/containers/{one['Id']}/json"))
            for host in self._hosts.values()
            for one in host.ask("GET", f"/containers/json?filters={filters}")
        }

    def _all_run(self) -> bool:
        time.sleep(1)  # asked more often, it would be measured too
        found = self._manager.ask("GET", "/services?status=true")
        running = sum(one["ServiceStatus"]["RunningTasks"] for one in found)
        wanted = sum(one["ServiceStatus"]["DesiredTasks"] for one in found)
        return bool(
            running == wanted == sum(host.containers() for host in self._hosts.values())
        )

    def _processor(self) -> dict[int, tuple[str, float]]:
        """Seconds of processor time that each daemon has used."""
        return {
            pid: (name, used(pid))
            for host in self._hosts.values()
            for name, pid in host.pids().items()
            if pid
        }

    def _memory(self) -> dict[str, float]:
        """Of the manager host's daemons, and of a worker's agent."""
        manager = {k: proportional(v) for k, v in self._manager.pids().items() if v}
        worker = proportional(self._hosts["w1"].pids()["agent"])
        return {**manager, "worker's agent": worker}


def _spent(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]
) -> dict[str, float]:
    """Seconds of processor time in between: of the manager with its store, of all agents."""
    found = {"manager": 0.0, "etcd": 0.0, "agents": 0.0}
    for pid, (name, seconds) in after.items():
        kind = "agents" if name == "agent" else name
        if kind in found:
            found[kind] += seconds - before[pid][1]
    return found


def _wall(container: dict[str, Any]) -> float:
    text = container["State"]["StartedAt"]
    whole, _, part = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{part or 0}")


def _told(changes: list[_Change]) -> dict[str, Any]:
    return {
        "rules_s": _worst([each.rules for each in changes]),
        "names_s": _worst([each.names for each in changes]),
    }


def _worst(seconds: list[float]) -> dict[str, float]:
    return {"median": round(median(seconds), 3), "worst": round(max(seconds), 3)}
