"""The cluster network against bare links between the same namespaces, in interleaved rounds.

A server's task on one host, a client's on another, both on an overlay.
Paths: through the server's virtual IP, to its task's address across hosts, over a bare VXLAN of
the same shape, over a bare veth. The ratios are medians against the bare VXLAN. What an
encrypted network between the same tasks does is told apart: there is no bar for it.
"""

from statistics import median
from typing import Any

from scripts.benchmarks.host import Host, sandbox, until
from scripts.benchmarks.paths import Bare, Sample, answers, measure, servers

IMAGE = "demo/sleep:1"
NETWORK, ENCRYPTED = "bench", "bench-encrypted"


def network(rounds: int, seconds: float) -> dict[str, Any]:
    """Throughput and latency; `ratio` is the throughput through the virtual IP."""
    with sandbox(1, 1) as (near, far):
        near.ask("POST", "/networks/create", {"Name": NETWORK, "Driver": "overlay"})
        sealed = {"Name": ENCRYPTED, "Driver": "overlay", "Options": {"encrypted": ""}}
        near.ask("POST", "/networks/create", sealed)
        _service(near, "client", "node.role==manager")
        _service(near, "server", "node.role==worker")
        for name in ("client", "server"):
            until(lambda name=name: near.running(name) == 1, f"{name} runs")  # type: ignore[misc]
        client, server = _pid(near), _pid(far)
        bare = Bare((near.netns, near.address, client), (far.netns, far.address, server))
        try:
            targets = {"vip": _vip(near), "across": _address(far, NETWORK)}
            targets["encrypted"] = secret = _address(far, ENCRYPTED)
            until(lambda: answers(client, secret), "the tunnel carries packets")
            targets |= {"vxlan": bare.vxlan(), "veth": bare.veth()}
            with servers(server):
                taken = _rounds(client, targets, rounds, seconds)
        finally:
            bare.remove()
    return _summary(taken, rounds)


def _service(manager: Host, name: str, constraint: str) -> None:
    template = {
        "ContainerSpec": {"Image": IMAGE},
        "Placement": {"Constraints": [constraint]},
        "Networks": [{"Target": NETWORK}, {"Target": ENCRYPTED}],
    }
    manager.create(name, 1, IMAGE, TaskTemplate=template)


def _pid(host: Host) -> int:
    return int(_container(host)["State"]["Pid"])


def _container(host: Host) -> dict[str, Any]:
    first = host.ask("GET", "/containers/json")[0]["Id"]
    found: dict[str, Any] = host.ask("GET", f"/containers/{first}/json")
    return found


def _address(host: Host, network: str) -> str:
    return str(_container(host)["NetworkSettings"]["Networks"][network]["IPAddress"])


def _vip(manager: Host) -> str:
    wanted = manager.ask("GET", f"/networks/{NETWORK}")["Id"]
    endpoint = manager.ask("GET", "/services/server")["Endpoint"]
    return next(
        str(each["Addr"]).partition("/")[0]
        for each in endpoint["VirtualIPs"]
        if each["NetworkID"] == wanted
    )


def _rounds(
    client: int, targets: dict[str, str], rounds: int, seconds: float
) -> dict[str, list[Sample]]:
    taken: dict[str, list[Sample]] = {name: [] for name in targets}
    for number in range(rounds):
        names = list(targets)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken[name].append(measure(client, targets[name], seconds))
    return taken


def _summary(taken: dict[str, list[Sample]], rounds: int) -> dict[str, Any]:
    middle = {
        name: Sample(
            median(each.gbit_s for each in samples),
            median(each.p50_us for each in samples),
            median(each.p99_us for each in samples),
        )
        for name, samples in taken.items()
    }
    floor = middle["vxlan"]
    paths = {
        name: {
            "gbit_s": round(each.gbit_s, 2),
            "p50_us": round(each.p50_us, 1),
            "p99_us": round(each.p99_us, 1),
            "ratio": round(each.gbit_s / floor.gbit_s, 3),
            "p99_ratio": round(each.p99_us / floor.p99_us, 2),
        }
        for name, each in middle.items()
    }
    apart = paths.pop("encrypted")
    return {
        "rounds": rounds,
        "ratio": paths["vip"]["ratio"],
        "p99_ratio": paths["vip"]["p99_ratio"],
        "paths": paths,
        "encrypted": apart,
    }
