"""Load on a virtual IP and on a published port, whatever happens to hosts and daemons.

Zero failed requests for what is done on purpose and for daemons that die. Of a host that is
lost only what was on its way there fails: a connection that it does not answer goes elsewhere.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime

import pytest

from shoal.common.clock import SystemClock
from tests.e2e.cluster import Cluster, eventually, pid_of, vip_of
from tests.e2e.load import LONG, SHORT, UNKNOWN, Load

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]

MANAGERS = ("m1", "m2", "m3")
HOSTS = (*MANAGERS, "w1", "w2")
PORT = 8091
TIMED_OUT = "TimeoutError: timed out"
LAST_TRY = 3.0
"""When a client that gives up after five tries for the last time, at the earliest."""
DROPPED_SECONDS = 1.0
"""From when the list shows a host as down to the last host's rules: 0.1 s if there is time."""


@pytest.fixture
def front(cluster: Cluster) -> Iterator[Cluster]:
    """A service under load, and beside it one whose containers ask."""
    cluster.docker("m1", "network", "create", "-d", "overlay", "busy")
    cluster.docker("m1", "service", "create", "-d", "--name", "asking", "--network", "busy",
                   "--constraint", "node.hostname==m2", "demo/web:1")  # fmt: skip
    # its health check says when a new task listens
    cluster.docker("m1", "service", "create", "-d", "--name", "front", "--replicas", "6",
                   "--network", "busy", "-p", f"{PORT}:80", "--update-order", "start-first",
                   "--update-parallelism", "2", "--update-monitor", "100ms",
                   "--health-cmd", "wget -q -O /dev/null http://127.0.0.1/",
                   "--health-interval", "200ms", "demo/web:1")  # fmt: skip
    cluster.await_running("m1", "front", 6, 30)
    cluster.await_running("m1", "asking", 1, 30)
    for host in HOSTS:
        answers(cluster, host)
    yield cluster
    cluster.sandbox("start", "w2")
    cluster.docker("m1", "node", "update", "--availability", "active", "w1")
    cluster.docker("m1", "service", "rm", "front", "asking")
    eventually(lambda: cluster.node_state("m1", "w2"), lambda state: state == "Ready", 30)
    eventually(
        lambda: cluster.docker("m1", "network", "rm", "busy", check=False),
        lambda said: "Error" not in said or "not found" in said,
        20,
    )


def answers(cluster: Cluster, host: str) -> None:
    """The port leads somewhere there."""
    eventually(lambda: cluster.get(host, PORT), lambda said: "demo/web" in said, 10)


def loads(cluster: Cluster) -> list[Load]:
    """From a container by the virtual IP, and by the port of a host, which is w1."""
    router = cluster.pids("w1")["agent"]
    assert router is not None
    return [
        Load(vip_of(cluster, "front", "busy"), 80, pid_of(cluster, "m2", "asking")),
        Load(cluster.hosts["w1"]["address"], PORT, router=router),
    ]


def kill_each(cluster: Cluster, daemon: str, hosts: tuple[str, ...]) -> dict[str, datetime]:
    """One after another, the next when the successor of the one before runs; when each died."""
    times = {}
    for host in hosts:
        before = cluster.pids(host)[daemon]
        cluster.sandbox("kill", host, daemon)
        times[host] = SystemClock().now()
        eventually(
            lambda host=host: cluster.pids(host)[daemon],  # type: ignore[misc]
            lambda now, before=before: now not in (None, before),  # type: ignore[misc]
            20,
        )
    return times


def await_sessions(cluster: Cluster, killed: Mapping[str, datetime]) -> None:
    """Every node has a session with a manager that was not killed since it was opened."""
    form = "{{.ID}} {{.Hostname}}"
    rows = cluster.docker("m1", "node", "ls", "--format", form).splitlines()
    names = dict(row.split() for row in rows)

    def opened() -> set[str]:
        store = cluster.etcd_directory("m1")
        told = cluster.etcdctl(store, "get", "--prefix", "shoal/session/").splitlines()
        keys = [key.rpartition("/")[2] for key in told[::2]]
        found = dict(zip(keys, map(json.loads, told[1::2]), strict=True))
        return {
            names[node]
            for node, session in found.items()
            if datetime.fromisoformat(session["since"]) > killed[names[session["manager"]]]
        }

    eventually(opened, lambda hosts: hosts == set(HOSTS), 20)


def addresses_on(cluster: Cluster, host: str) -> set[str]:
    """Of the service's containers there, on all their networks."""
    label = "label=com.docker.swarm.service.name=front"
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    ids = cluster.docker(host, "ps", "-q", "--filter", label).split()
    return set(cluster.docker(host, "inspect", "-f", form, *ids).split()) if ids else set()


def test_only_requests_to_a_lost_host_fail(front: Cluster) -> None:
    with ExitStack() as stack:
        calm = [stack.enter_context(load) for load in loads(front)]
        front.docker("m3", "service", "update", "-d", "--image", "demo/web:2", "front")
        eventually(
            lambda: front.update_state("m1", "front"), lambda state: state == "completed", 60
        )
        front.docker("m1", "node", "update", "--availability", "drain", "w1")
        eventually(
            lambda: front.tasks("m1", "front"),
            lambda tasks: (
                "w1" not in {host for host, _ in tasks}
                and [state for _, state in tasks] == ["Running"] * 6
            ),
            30,
        )
        kill_each(front, "agent", HOSTS)
        await_sessions(front, kill_each(front, "manager", MANAGERS))
    for load in calm:
        assert load.failures == {}
        assert load.answered > 100
    lost = addresses_on(front, "w2")
    assert lost
    with ExitStack() as stack:
        hit = [stack.enter_context(load) for load in loads(front)]
        for load in hit:
            load.await_answers(50)
        began = time.monotonic()
        front.sandbox("kill", "w2")
        dead = time.monotonic()
        eventually(lambda: front.node_state("m1", "w2"), lambda state: state == "Down", 30)
        down = time.monotonic()
        front.await_running("m1", "front", 6, 10)
        for load in hit:  # also from ports that were used before
            load.await_answers(500)
    # what was on its way; and who had the bad luck to be led there with each try
    last = max(dead, down + DROPPED_SECONDS - LAST_TRY)
    for load in hit:
        assert load.failures.get(TIMED_OUT, 0) <= SHORT + LONG
        for failure in load.lost:
            assert began < failure.begun < last, failure
            # what the dying host's own kernel refuses leaves no flow to tell of it
            assert failure.backend in lost or (
                failure.backend == UNKNOWN and failure.begun < dead
            ), failure
