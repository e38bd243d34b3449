"""Five hosts through the stock CLI: a service runs, heals, moves, and outlives our daemons."""

import time

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]

HOSTS = ("m1", "m2", "m3", "w1", "w2")


def test_service_runs_answers_everywhere_and_scales(cluster: Cluster) -> None:
    cluster.docker("m1", "service", "create", "-d", "--name", "web", "--replicas", "5",
                   "-p", "8080:80", "demo/web:1")  # fmt: skip
    cluster.await_running("m2", "web", 5, 20)
    assert {node for node, _ in cluster.tasks("m1", "web")} == set(HOSTS)
    for host in HOSTS:
        eventually(
            lambda host=host: cluster.get(host, 8080),  # type: ignore[misc]
            lambda text: "demo/web:1" in text,
            10,
        )
    cluster.docker("m3", "service", "scale", "-d", "web=20")
    cluster.await_running("m1", "web", 20, 30)


def test_logs_reach_every_host_from_any_manager(cluster: Cluster) -> None:
    said = cluster.docker("m2", "service", "logs", "web")
    assert {line.split("@")[1].split()[0] for line in said.splitlines()} == set(HOSTS)


def test_bad_input_is_refused_with_a_sentence(cluster: Cluster) -> None:
    again = cluster.docker("m1", "service", "create", "-d", "--name", "web", "demo/web:1",
                           check=False)  # fmt: skip
    assert "service web already exists" in again
    taken = cluster.docker("m1", "service", "create", "-d", "-p", "8080:80", "demo/web:1",
                           check=False)  # fmt: skip
    assert "8080" in taken
    assert "already in use" in taken
    assert "no such service" in cluster.docker(
        "m1", "service", "inspect", "nosuch", check=False
    )


def test_waiting_task_says_why(cluster: Cluster) -> None:
    cluster.docker("m1", "service", "create", "-d", "--name", "picky",
                   "--constraint", "node.labels.disk==ssd", "demo/web:1")  # fmt: skip
    form = "{{.CurrentState}} {{.Error}}"
    eventually(
        lambda: cluster.docker("m1", "service", "ps", "picky", "--no-trunc", "--format", form),
        lambda text: "no suitable node" in text and "node.labels.disk==ssd" in text,
        10,
    )
    cluster.docker("m1", "node", "update", "--label-add", "disk=ssd", "w2")
    eventually(lambda: cluster.tasks("m1", "picky"), lambda t: t == [("w2", "Running")], 10)
    cluster.docker("m1", "service", "rm", "picky")


def test_rolling_update_start_first_keeps_every_replica(cluster: Cluster) -> None:
    cluster.docker("m1", "service", "create", "-d", "--name", "roll", "--replicas", "4",
                   "--update-order", "start-first", "--update-monitor", "1s",
                   "demo/web:1")  # fmt: skip
    cluster.await_running("m1", "roll", 4, 20)
    fewest = 4

    def state() -> str:
        nonlocal fewest
        fewest = min(fewest, cluster.running("m1", "roll"))
        form = "{{.UpdateStatus.State}}"
        return cluster.docker(
            "m1", "service", "inspect", "-f", form, "roll", check=False
        ).strip()

    cluster.docker("m2", "service", "update", "-d", "--image", "demo/web:2", "roll")
    eventually(state, lambda seen: seen == "completed", 60)
    images = cluster.docker("m1", "service", "ps", "roll", "--filter", "desired-state=running",
                            "--format", "{{.Image}}")  # fmt: skip
    assert images.split() == ["demo/web:2"] * 4
    assert fewest == 4


def test_failing_update_rolls_itself_back(cluster: Cluster) -> None:
    cluster.docker("m1", "service", "update", "-d", "--image", "demo/fail:1",
                   "--update-failure-action", "rollback", "--rollback-monitor", "1s",
                   "roll")  # fmt: skip
    form = "{{.UpdateStatus.State}}"
    eventually(
        lambda: cluster.docker("m1", "service", "inspect", "-f", form, "roll"),
        lambda state: state == "rollback_completed",
        60,
    )
    spec = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    assert cluster.docker("m1", "service", "inspect", "-f", spec, "roll") == "demo/web:2"
    cluster.await_running("m1", "roll", 4, 20)
    cluster.docker("m1", "service", "rm", "roll")


def test_global_service_runs_once_on_each_host(cluster: Cluster) -> None:
    cluster.docker("m1", "service", "create", "-d", "--name", "each", "--mode", "global",
                   "demo/web:1")  # fmt: skip
    eventually(
        lambda: sorted(cluster.tasks("m1", "each")),
        lambda tasks: tasks == [(host, "Running") for host in HOSTS],
        20,
    )
    cluster.docker("m1", "service", "rm", "each")


def test_drained_host_gives_its_tasks_up(cluster: Cluster) -> None:
    cluster.docker("m1", "node", "update", "--availability", "drain", "w1")
    eventually(
        lambda: cluster.tasks("m1", "web"),
        lambda tasks: [s for n, s in tasks if n != "w1"] == ["Running"] * 20,
        30,
    )
    cluster.docker("m1", "node", "update", "--availability", "active", "w1")


def test_every_daemon_killed_in_turn_disturbs_no_container(cluster: Cluster) -> None:
    before = cluster.containers()
    for host in HOSTS:
        daemons = ("agent", "manager", "etcd") if host.startswith("m") else ("agent",)
        for daemon in daemons:
            old = cluster.pids(host)[daemon]
            cluster.sandbox("kill", host, daemon)
            eventually(
                lambda host=host, daemon=daemon: cluster.pids(host)[daemon],  # type: ignore[misc]
                lambda pid, old=old: pid not in (None, old),  # type: ignore[misc]
                20,
            )
    for host in ("w1", "m3"):
        cluster.sandbox("kill", host, "host")
        cluster.sandbox("start", host)
    for host in HOSTS:
        eventually(
            lambda host=host: cluster.node_state("m1", host),  # type: ignore[misc]
            lambda state: state == "Ready",
            30,
        )
    assert cluster.containers() == before
    assert cluster.running("m1", "web") == 20


def test_lost_worker_is_replaced_within_eight_seconds(cluster: Cluster) -> None:
    began = time.monotonic()
    cluster.sandbox("kill", "w2")
    eventually(
        lambda: cluster.tasks("m1", "web"),
        lambda tasks: [s for n, s in tasks if n != "w2"] == ["Running"] * 20,
        30,
    )
    assert time.monotonic() - began < 8
    assert cluster.node_state("m1", "w2") == "Down"
    cluster.sandbox("start", "w2")
    eventually(lambda: cluster.node_state("m1", "w2"), lambda state: state == "Ready", 20)


def test_lost_leader_delays_a_service_by_less_than_five_seconds(cluster: Cluster) -> None:
    leader = cluster.leader("m1")
    other = next(host for host in ("m1", "m2", "m3") if host != leader)
    began = time.monotonic()
    cluster.sandbox("kill", leader)
    cluster.docker(other, "service", "create", "-d", "--name", "after", "demo/web:1")
    cluster.await_running(other, "after", 1, 20)
    assert time.monotonic() - began < 5
    cluster.sandbox("start", leader)
    eventually(lambda: cluster.node_state(other, leader), lambda state: state == "Ready", 30)


def test_removed_services_leave_no_container(cluster: Cluster) -> None:
    cluster.docker("m2", "service", "rm", "web", "after")
    listed = lambda: [cluster.docker(host, "ps", "-aq") for host in HOSTS]  # noqa: E731
    eventually(listed, lambda found: not any(found), 40)
    eventually(lambda: cluster.get("w1", 8080), lambda text: text == "", 10)


def test_worker_leaves_is_removed_and_joins_again(cluster: Cluster) -> None:
    cluster.docker("w2", "swarm", "leave")
    assert "not part of a swarm" in cluster.docker("w2", "swarm", "leave", check=False)
    # said by itself: its host refuses the agent's port as in a restart, which is waited for
    assert cluster.node_state("m1", "w2") == "Down"
    cluster.docker("m1", "node", "rm", "w2")
    hostnames = cluster.docker("m2", "node", "ls", "--format", "{{.Hostname}}")
    assert sorted(hostnames.split()) == ["m1", "m2", "m3", "w1"]
    manager = f"{cluster.hosts['m3']['address']}:2377"
    wrong = "SWMTKN-1-" + "0" * 50 + "-" + "1" * 25
    refused = cluster.docker("w2", "swarm", "join", "--token", wrong, manager, check=False)
    assert "remote CA does not match fingerprint" in refused
    token = cluster.docker("m1", "swarm", "join-token", "-q", "worker")
    cluster.docker("w2", "swarm", "join", "--token", token, manager)
    eventually(lambda: cluster.node_state("m1", "w2"), lambda state: state == "Ready", 15)


def test_manager_is_demoted_and_promoted_again(cluster: Cluster) -> None:
    cluster.docker("m1", "node", "demote", "m3")
    form = "{{.Hostname}} {{.ManagerStatus}}"
    eventually(
        lambda: cluster.docker("m1", "node", "ls", "--format", form),
        lambda rows: "m3" in [row.strip() for row in rows.splitlines()],
        30,
    )
    eventually(
        lambda: cluster.docker("m3", "node", "ls", check=False),
        lambda said: "Worker nodes can't be used" in said,
        30,
    )
    cluster.docker("m1", "node", "promote", "m3")
    eventually(
        lambda: cluster.docker("m3", "node", "ls", check=False),
        lambda said: "Reachable" in said,
        60,
    )
