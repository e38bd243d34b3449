"""Secrets and configs inside tasks, through the stock CLI."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

WORD = "only-in-memory-7f3a"
TEMPLATE = '{{.Node.Hostname}} {{secret "word"}} {{env "A"}}'


def container_of(cluster: Cluster, service: str) -> str:
    task = cluster.docker("m1", "service", "ps", "-q", "--no-trunc", service).split()[0]
    form = "{{.Status.ContainerStatus.ContainerID}}"
    return cluster.docker("m1", "inspect", "-f", form, task)


def files(cluster: Cluster, host: str) -> list[Path]:
    run = Path(cluster.hosts[host]["docker_host"].removeprefix("unix://")).parent
    return list((run / "payloads").glob("*/*"))


def test_they_are_files_in_memory_where_they_are_used(cluster: Cluster) -> None:
    cluster.docker("m1", "secret", "create", "word", "-", stdin=WORD)
    cluster.docker("m1", "config", "create", "plain", "-", stdin="as it is")
    cluster.docker("m1", "config", "create", "--template-driver", "golang", "made", "-",
                   stdin=TEMPLATE)  # fmt: skip
    cluster.docker("m1", "service", "create", "-d", "--name", "keeps", "--env", "A=b",
                   "--constraint", "node.hostname==w1", "--stop-grace-period", "1s",
                   "--secret", "word", "--config", "plain",
                   "--secret", "source=word,target=mine,uid=7,gid=8,mode=0400",
                   "--config", "source=made,target=/etc/made.conf",
                   "busybox", "sleep", "1000")  # fmt: skip
    cluster.await_running("m2", "keeps", 1, 20)
    container = container_of(cluster, "keeps")
    read = ("cat", "/run/secrets/word", "/plain", "/etc/made.conf")
    expected = f"{WORD}as it isw1 {WORD} b"
    assert cluster.docker("m2", "exec", container, *read) == expected
    stat = cluster.docker(
        "m2", "exec", container, "stat", "-c", "%u %g %a", "/run/secrets/mine"
    )
    assert stat == "7 8 400"
    refused = cluster.docker(
        "m2", "exec", container, "sh", "-c", "echo x > /plain", check=False
    )
    assert "Read-only" in refused
    assert len(files(cluster, "w1")) == 4
    assert all(not files(cluster, host) for host in ("m1", "m2", "m3", "w2"))
    for host in cluster.hosts.values():
        state = Path(host["docker_host"].removeprefix("unix://")).parents[1]
        found = subprocess.run(
            ["grep", "-rlF", WORD, str(state), "--exclude-dir=payloads"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == ""


def test_a_restarted_agent_keeps_them(cluster: Cluster) -> None:
    container = container_of(cluster, "keeps")
    old = cluster.pids("w1")["agent"]
    cluster.sandbox("kill", "w1", "agent")
    eventually(lambda: cluster.pids("w1")["agent"], lambda pid: pid not in (None, old), 20)
    eventually(
        lambda: cluster.docker(
            "m1", "exec", container, "cat", "/run/secrets/word", check=False
        ),
        lambda text: text.strip() == WORD,
        20,
    )


def test_in_use_they_stay_and_then_nothing_of_them_does(cluster: Cluster) -> None:
    for kind, name in (("secret", "word"), ("config", "plain")):
        refused = cluster.docker("m1", kind, "rm", name, check=False)
        assert f"{kind} '{name}' is in use by the following service: keeps" in refused
    cluster.docker("m1", "service", "rm", "keeps")
    cluster.docker("m1", "secret", "rm", "word")
    cluster.docker("m1", "config", "rm", "plain", "made")
    eventually(lambda: files(cluster, "w1"), lambda found: not found, 20)
    missing = cluster.docker("m1", "service", "create", "-d", "--secret", "word", "busybox",
                             check=False)  # fmt: skip
    assert "secret not found: word" in missing
