"""Containers and networks come and go by the hundred, and nothing of them is left.

The ordinary run takes a part of the numbers; `pytest --full --junitxml=FILE` takes 1,000
containers and 50 networks, and has the figures in that file.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.leftovers import Things, descriptors, difference, memory, store, things

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

NETWORKS = 5
"""Of a round; each has a service."""
HOSTS = ("m1", "w1")
KEPT = "kept"
"""A network of few addresses that stays: what is not given back is missed in the end."""
PATIENCE = 120.0
SPARE_DESCRIPTORS = 6
"""What connections at rest and pools of threads may have grown by."""
GROWTH_MB = 12.0


@pytest.fixture
def two(images: None) -> Iterator[Cluster]:
    """A manager and a worker that nobody else uses."""
    found = Cluster(f"l{os.getpid() % 100000}")
    try:
        found.up(1, 1)
        for image in ("busybox-latest", "demo-sleep-1", "demo-fail-1"):
            found.load(image)
        yield found
    finally:
        found.sandbox("down")


def test_nothing_is_left_of_containers_and_networks(
    two: Cluster,
    request: pytest.FixtureRequest,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    full = request.config.getoption("--full")
    rounds, replicas, runs = (10, 18, 10) if full else (2, 6, 5)
    for host in HOSTS:  # what the first of them makes for all
        _runs(two, host, "bridge", 2)
    before = {host: _settled(two, host) for host in HOSTS}
    keys = store(two, "m1")
    two.docker("m1", "network", "create", "-d", "overlay", "--subnet", "10.66.9.0/27", KEPT)
    held: dict[str, dict[str, int]] = {}
    weight: dict[str, dict[str, float]] = {}
    for number in range(rounds):
        _round(two, number, replicas, runs, kill=number == rounds - 1 or number == 1)
        if number == (1 if full else 0):
            held = {host: descriptors(two, host) for host in HOSTS}
            weight = {host: memory(two, host) for host in HOSTS}
    _insist(two, "m1", "network", "rm", KEPT)
    for host in HOSTS:
        _await_none_left(two, host, before[host])
    assert store(two, "m1") == keys
    for host in HOSTS:
        now = descriptors(two, host)
        more = {name: now[name] - count for name, count in held[host].items()}
        assert all(each <= SPARE_DESCRIPTORS for each in more.values()), (host, more)
        grown = {
            name: round(mb - weight[host][name], 1) for name, mb in memory(two, host).items()
        }
        record_testsuite_property(host, {"descriptors": more, "memory in MB": grown})
        assert all(each <= GROWTH_MB for each in grown.values()), (host, grown)


def _settled(cluster: Cluster, host: str) -> Things:
    """Once the kernel is sure of the host's own addresses, which takes it a second or two."""
    return eventually(
        lambda: things(cluster, host),
        lambda found: not any(" tentative " in line for line in found["addresses"]),
        10,
    )


def _await_none_left(cluster: Cluster, host: str, before: Things) -> None:
    eventually(lambda: difference(before, things(cluster, host)), lambda found: not found, 30)


def _round(cluster: Cluster, number: int, replicas: int, runs: int, *, kill: bool) -> None:
    """Networks with a service each, up and down again, and a person's containers beside them.

    With `kill`, an agent dies while containers start, and the other one while they stop.
    """
    names = [f"n{number}-{each}" for each in range(NETWORKS)]
    for each, name in enumerate(names):
        flags = ["--subnet", f"10.66.{each}.0/27", "--attachable"]
        flags += ["--opt", "encrypted"] if each == 1 else []
        flags += ["--ipv6"] if each == 2 else []
        cluster.docker("m1", "network", "create", "-d", "overlay", *flags, name)
    for each, name in enumerate(names):
        flags = ["--network", KEPT, "-p", "8500:80", "-p", "8600:81/udp"] if each == 0 else []
        cluster.docker("m1", "service", "create", "-d", "--name", name, "--network", name,
                       "--replicas", str(replicas), "--stop-grace-period", "1s", *flags,
                       "demo/sleep:1")  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        people = [pool.submit(_runs, cluster, host, names[0], runs // 2) for host in HOSTS]
        if kill:
            cluster.sandbox("kill", HOSTS[number % 2], "agent")
        _disturb(cluster, number)
        for name in names:
            cluster.await_running("m1", name, replicas, PATIENCE)
        for person in people:
            person.result()
    for name in names:
        _insist(cluster, "m1", "service", "update", "-d", "--replicas", "0", name)
    if kill:
        cluster.sandbox("kill", HOSTS[(number + 1) % 2], "agent")
    eventually(lambda: _containers(cluster), lambda left: not left, PATIENCE)
    services = _insist(cluster, "m1", "service", "ls", "-q").split()
    _insist(cluster, "m1", "service", "rm", *services)
    for name in names:
        _insist(cluster, "m1", "network", "rm", name)


def _runs(cluster: Cluster, host: str, network: str, count: int) -> None:
    """A person's containers on a network of the host, on `bridge` and on a cluster network."""
    local = f"local-{network}"
    _insist(cluster, host, "network", "create", local)
    for each in range(count):
        on = (network, local, "bridge")[each % 3]
        _insist(cluster, host, "run", "--rm", "--label", "person", "--network", on,
                "-p", "80", "busybox", "true")  # fmt: skip
    # Its client may have been cut off between creating and starting: nobody else removes it.
    cut = _insist(cluster, host, "ps", "-aq", "--filter", "label=person").split()
    if cut:
        _insist(cluster, host, "rm", "-f", *cut)
    _insist(cluster, host, "network", "rm", "-f", local)


def _insist(cluster: Cluster, host: str, *words: str) -> str:
    """Until it is done: the agent may be killed at any moment."""
    done = eventually(
        lambda: cluster.run(host, *words),
        lambda done: done.returncode == 0 or "already exists" in done.stderr,
        PATIENCE,
    )
    return done.stdout


def _disturb(cluster: Cluster, number: int) -> None:
    """What goes wrong while all of it comes up: images, commands, mounts, clients."""
    for name, words in {
        "fails": ("demo/fail:1",),
        "absent": ("busybox:latest", "nosuch"),
        "unmounted": ("--mount", "type=bind,src=/nosuch,dst=/x", "busybox:latest", "true"),
    }.items():
        _insist(cluster, "m1", "service", "create", "-d", "--name", f"{name}{number}",
                "--network", f"n{number}-1", "--restart-condition", "none", *words)  # fmt: skip
    for host in HOSTS:
        cluster.run(host, "run", "--rm", "busybox", "nosuch")
    _cancelled_creations(cluster, "m1" if number % 2 else "w1")
    eventually(
        lambda: _states(cluster, f"fails{number}") + _states(cluster, f"absent{number}"),
        lambda states: len(states) == 2 and all(s in ("Failed", "Rejected") for s in states),
        PATIENCE,
    )
    services = (f"fails{number}", f"absent{number}", f"unmounted{number}")
    _insist(cluster, "m1", "service", "rm", *services)
    for host in HOSTS:
        made = _insist(cluster, host, "ps", "-aq", "--filter", "label=cancelled").split()
        if made:
            _insist(cluster, host, "rm", "-f", *made)


def _cancelled_creations(cluster: Cluster, host: str) -> None:
    """Somebody hangs up in the middle of a creation, sooner or later."""
    path = cluster.hosts[host]["docker_host"].removeprefix("unix://")
    asked: dict[str, Any] = {"Image": "busybox", "Labels": {"cancelled": ""}}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1.50/containers/create HTTP/1.1\r\nHost: docker\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for wait in (0.0, 0.002, 0.005, 0.01, 0.02):
        # The agent may be down just now.
        with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(OSError):
            line.connect(path)
            line.sendall(head + body)
            time.sleep(wait)


def _states(cluster: Cluster, service: str) -> list[str]:
    rows = _insist(cluster, "m1", "service", "ps", service, "--format", "{{.CurrentState}}")
    return [row.split()[0] for row in rows.splitlines()]


def _containers(cluster: Cluster) -> list[str]:
    """Ids of all containers of both hosts; a sentence of a host that does not answer."""
    found: list[str] = []
    for host in HOSTS:
        done = cluster.run(host, "ps", "-aq")
        found += done.stdout.split() if done.returncode == 0 else [f"{host} does not answer"]
    return found
