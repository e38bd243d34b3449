"""Faults under load: daemons killed in the middle of an update, cut links, lost quorums.

Each test brings the five hosts back whole: the next one begins where `cluster` began.
"""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]

MANAGERS = ("m1", "m2", "m3")
HOSTS = (*MANAGERS, "w1", "w2")
NO_QUORUM = "It's possible that too few managers are online"


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Every host ready before and after, and no service left."""
    await_ready(cluster)
    yield
    for host in HOSTS:
        cluster.sandbox("start", host)
        cluster.sandbox("link", host, "up")
    await_ready(cluster)
    left = cluster.docker("m1", "service", "ls", "-q").split()
    if left:
        cluster.docker("m1", "service", "rm", *left)
    eventually(lambda: everything(cluster), lambda found: not found, 40)


def await_ready(cluster: Cluster) -> None:
    form = "{{.Hostname}} {{.Status}}"
    eventually(
        lambda: cluster.docker("m1", "node", "ls", "--format", form, check=False).splitlines(),
        lambda rows: sorted(row.strip() for row in rows) == [f"{h} Ready" for h in HOSTS],
        40,
    )


def everything(cluster: Cluster) -> list[str]:
    """Ids of all containers of all hosts, also of those that have ended."""
    return [c for host in HOSTS for c in cluster.docker(host, "ps", "-aq").split()]


def create(cluster: Cluster, name: str, replicas: int, *flags: str, at: str = "m1") -> None:
    cluster.docker(at, "service", "create", "-d", "--name", name, "--replicas", str(replicas),
                   *flags, "demo/sleep:1")  # fmt: skip
    cluster.await_running(at, name, replicas, 30)


def other_manager(host: str) -> str:
    return next(manager for manager in MANAGERS if manager != host)


def kill_and_await(cluster: Cluster, host: str, daemon: str) -> None:
    """SIGKILL one daemon; return when exactly one successor of all that died runs."""
    before = cluster.pids(host)
    cluster.sandbox("kill", host, daemon)
    if daemon == "host":
        cluster.sandbox("start", host)
    died = [n for n, pid in before.items() if pid and daemon in (n, "host")]
    after = eventually(
        lambda: cluster.pids(host),
        lambda pids: all(pids[name] not in (None, before[name]) for name in died),
        20,
    )
    family = {name: pid for name, pid in after.items() if pid}
    assert family.keys() == {name for name, pid in before.items() if pid}
    assert cluster.daemons(host) == sorted(family.values())


def test_every_daemon_dies_during_an_update_and_it_completes(cluster: Cluster) -> None:
    """No container restarts or stops because of it; exactly one successor of each runs."""
    create(cluster, "still", 10)
    create(cluster, "roll", 12, "--update-delay", "1s", "--update-monitor", "500ms")
    still = cluster.containers_of("still")
    version = 0
    for host in HOSTS:
        daemons = (
            ("agent", "manager", "etcd", "host") if host in MANAGERS else ("agent", "host")
        )
        for daemon in daemons:
            at = other_manager(host)
            if cluster.update_state(at, "roll") != "updating":
                version += 1
                again = ("service", "update", "-d", "--env-add", f"V={version}", "roll")
                cluster.docker(at, *again)
            kill_and_await(cluster, host, daemon)
    eventually(
        lambda: cluster.update_state("m1", "roll"), lambda state: state == "completed", 90
    )
    cluster.await_running("m1", "roll", 12, 10)
    assert cluster.containers_of("still") == still, cluster.docker(
        "m1", "service", "ps", "--no-trunc", "still"
    )
    form = "{{.DesiredState}} {{.CurrentState}} {{.Error}}"
    rows = cluster.docker("m1", "service", "ps", "roll", "--format", form)
    states = Counter(" ".join(row.split()[:2]) for row in rows.splitlines())
    assert states == {"Running Running": 12, "Shutdown Shutdown": 12 * version}, rows
    assert len(cluster.containers_of("roll")) == 12


def test_daemons_that_are_away_for_a_while_move_nothing(cluster: Cluster) -> None:
    """Longer than the grace: the host lives, its kernel says so, and its containers run on."""
    create(cluster, "still", 10)
    before = cluster.containers_of("still")
    cluster.sandbox("kill", "w1", "host")
    began = time.monotonic()
    while time.monotonic() - began < 7:
        assert cluster.node_state("m1", "w1") == "Ready"
    cluster.sandbox("start", "w1")
    eventually(lambda: cluster.node_state("m1", "w1"), lambda state: state == "Ready", 20)
    assert cluster.containers_of("still") == before
    assert cluster.tasks("m1", "still").count(("w1", "Running")) == 2


def test_no_acknowledged_service_is_lost_while_leaders_die(cluster: Cluster) -> None:
    """Services are created at another manager all the time; two leaders die on the way."""
    made: list[str] = []

    def create_all(at: str) -> None:
        for number in range(12):
            name = f"load{at}{number}"
            said = cluster.docker(
                at, "service", "create", "-d", "--name", name, "demo/sleep:1", check=False
            )
            if "Error" not in said and said.strip():
                made.append(name)

    for victim in ("manager", "etcd"):
        leader = cluster.leader("m1")
        other = next(host for host in MANAGERS if host != leader)
        with ThreadPoolExecutor(2) as pool:
            creating = pool.submit(create_all, other)
            kill_and_await(cluster, leader, victim)
            creating.result()
        assert cluster.leader(other) in MANAGERS
    names = cluster.docker("m1", "service", "ls", "--format", "{{.Name}}").split()
    assert set(made) <= set(names)
    assert len(made) >= 12
    form = "{{.Replicas}}"
    eventually(
        lambda: cluster.docker("m2", "service", "ls", "--format", form).split(),
        lambda counts: set(counts) == {"1/1"},
        30,
    )


def test_partitioned_worker_loses_its_tasks_and_is_reconciled(cluster: Cluster) -> None:
    create(cluster, "web", 10)
    before = cluster.containers_of("web")
    cluster.sandbox("link", "w1", "down")
    eventually(
        lambda: cluster.tasks("m1", "web"),
        lambda tasks: [s for n, s in tasks if n != "w1"] == ["Running"] * 10,
        20,
    )
    assert cluster.node_state("m1", "w1") == "Down"
    originals = set(cluster.containers_on("w1", "web")) & set(before)
    assert originals, "the cut host goes on with what it has"
    why = cluster.docker("m1", "node", "ps", "w1", "--format", "{{.Error}}").splitlines()
    assert why == ['"node w1 is down"'] * len(originals)
    cluster.sandbox("link", "w1", "up")
    eventually(lambda: cluster.node_state("m1", "w1"), lambda state: state == "Ready", 20)
    eventually(lambda: len(cluster.containers_of("web")), lambda count: count == 10, 20)
    assert not originals & set(cluster.containers_of("web"))


def test_worker_after_a_power_cut_has_nothing_old(cluster: Cluster) -> None:
    create(cluster, "web", 10)
    old = set(cluster.containers_on("w2", "web"))
    assert old
    cluster.sandbox("kill", "w2")
    cluster.sandbox("start", "w2")
    eventually(lambda: cluster.node_state("m1", "w2"), lambda state: state == "Ready", 20)
    cluster.await_running("m1", "web", 10, 20)
    eventually(lambda: len(cluster.containers_of("web")), lambda count: count == 10, 20)
    assert not old & set(cluster.containers_of("web"))
    assert not old & set(cluster.docker("w2", "ps", "-q", "--no-trunc").split())


def test_two_managers_that_cannot_see_each_other_disturb_nobody(cluster: Cluster) -> None:
    create(cluster, "web", 5)
    before = cluster.containers_of("web")
    leader = cluster.leader("m1")
    other = next(host for host in MANAGERS if host != leader)
    cluster.sandbox("link", leader, "drop", other)
    third = next(host for host in MANAGERS if host not in (leader, other))
    began = time.monotonic()
    create(cluster, "after", 3, at=third)
    assert time.monotonic() - began < 20
    cluster.sandbox("link", leader, "up")
    await_ready(cluster)
    assert cluster.containers_of("web") == before


def test_without_a_quorum_it_says_so_soon_and_containers_run_on(cluster: Cluster) -> None:
    create(cluster, "web", 10)
    before = cluster.containers_of("web")
    kept = {
        c: f
        for host in ("m1", "w1", "w2")
        for c, f in cluster.containers_on(host, "web").items()
    }
    cluster.sandbox("kill", "m2")
    cluster.sandbox("kill", "m3")
    for words in (
        ("service", "create", "-d", "demo/sleep:1"),
        ("service", "ls"),
        ("node", "ls"),
    ):
        began = time.monotonic()
        said = cluster.docker("m1", *words, check=False)
        took = time.monotonic() - began
        assert NO_QUORUM in said, said
        assert took < 3.5, f"{words} took {took:.1f} s"
    time_of_loss = time.monotonic()
    assert set(kept) <= set(before)
    for host in ("m1", "w1", "w2"):
        assert {
            c: kept[c] for c in cluster.containers_on(host, "web")
        } == cluster.containers_on(host, "web")
    cluster.sandbox("start", "m2")
    eventually(
        lambda: cluster.docker("m1", "service", "ls", "-q", check=False),
        lambda said: NO_QUORUM not in said and "Error" not in said,
        30,
    )
    cluster.await_running("m1", "web", 10, 30)
    assert time.monotonic() - time_of_loss < 60
    now = cluster.containers_of("web", ("m1", "m2", "w1", "w2"))
    assert kept.items() <= now.items()


def test_every_host_after_a_power_cut_of_all(cluster: Cluster) -> None:
    """The whole room goes dark, and comes back: the cluster is what it was."""
    create(cluster, "web", 10)
    for host in HOSTS:
        cluster.sandbox("kill", host)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda host: cluster.sandbox("start", host), HOSTS))
    await_ready(cluster)
    cluster.await_running("m1", "web", 10, 40)
    eventually(lambda: len(cluster.containers_of("web")), lambda count: count == 10, 20)


def test_a_cluster_whose_quorum_is_lost_is_forced_anew(cluster: Cluster) -> None:
    """One manager goes on alone; the others come back as workers and are promoted again."""
    create(cluster, "web", 10)
    hosts = ("m1", "w1", "w2")
    kept = cluster.containers_of("web", hosts)
    cluster.sandbox("kill", "m2")
    cluster.sandbox("kill", "m3")
    said = cluster.docker("w1", "swarm", "init", "--force-new-cluster", check=False)
    assert "only a manager has the state" in said
    cluster.docker("m1", "swarm", "init", "--force-new-cluster", "--advertise-addr",
                   cluster.hosts["m1"]["address"])  # fmt: skip
    create(cluster, "after", 3)
    cluster.await_running("m1", "web", 10, 30)
    assert kept.items() <= cluster.containers_of("web", hosts).items()
    cluster.sandbox("start", "m2")
    cluster.sandbox("start", "m3")
    await_ready(cluster)
    form = "{{.Hostname}} {{.ManagerStatus}}"
    rows = cluster.docker("m1", "node", "ls", "--format", form).splitlines()
    assert sorted(row.strip() for row in rows) == ["m1 Leader", "m2", "m3", "w1", "w2"]
    eventually(lambda: cluster.pids("m2")["etcd"], lambda pid: pid is None, 20)
    cluster.docker("m1", "node", "promote", "m2", "m3")
    eventually(
        lambda: cluster.docker("m1", "node", "ls", "--format", form).splitlines(),
        lambda rows: {"m2 Reachable", "m3 Reachable"} <= {row.strip() for row in rows},
        30,
    )
    eventually(
        lambda: cluster.docker("m3", "service", "ls", "-q", check=False).split(),
        lambda ids: len(ids) == 2,
        20,
    )
    assert kept.items() <= cluster.containers_of("web").items(), cluster.docker(
        "m1", "service", "ps", "--no-trunc", "web"
    )
