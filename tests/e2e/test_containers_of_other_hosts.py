"""One host's container from the managers of others: the stock CLI does not notice."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

COUNT = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def far(cluster: Cluster) -> Iterator[str]:
    """A container on a worker."""
    cluster.docker("w1", "run", "-d", "--name", "far", "busybox", "sh", "-c", COUNT)
    yield "far"
    cluster.docker("m2", "rm", "-f", "far")


def test_logs_exec_and_inspect(cluster: Cluster, far: str) -> None:
    for manager in ("m1", "m2"):
        eventually(
            lambda manager=manager: cluster.docker(manager, "logs", far),  # type: ignore[misc]
            lambda text: "line 3" in text,
            10,
        )
        assert cluster.docker(manager, "exec", "-i", far, "cat", stdin="in and out") == (
            "in and out"
        )
        assert cluster.docker(manager, "exec", far, "sh", "-c", "exit 5", check=False) == ""
        form = "{{.Name}} {{.State.Status}}"
        assert cluster.docker(manager, "inspect", "-f", form, far) == "/far running"
        assert "sleep" in cluster.docker(manager, "top", far)
        assert far in cluster.docker(manager, "stats", "--no-stream", far)


def test_what_a_worker_has_not_it_does_not_find(cluster: Cluster, far: str) -> None:
    assert "No such container" in cluster.docker("w2", "logs", far, check=False)
    assert "No such container" in cluster.docker("m1", "exec", "none", "ls", check=False)


def test_a_follower_of_logs_is_let_go(cluster: Cluster, far: str) -> None:
    command = ["docker", "-H", cluster.hosts["m3"]["docker_host"], "logs", "-f", far]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("line")
        assert following.stdout.readline().startswith("line")
        following.terminate()


def test_files_go_in_and_out(cluster: Cluster, far: str, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(range(256)) * 40_000)
    cluster.docker("m1", "cp", str(sent), f"{far}:/tmp/")
    cluster.docker("m2", "cp", f"{far}:/tmp/sent", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == sent.read_bytes()
    assert "A /tmp/sent" in cluster.docker("m3", "diff", far).splitlines()
    refused = cluster.docker("m1", "cp", f"{far}:/nosuch", str(tmp_path), check=False)
    assert "Could not find the file /nosuch in container far" in refused


def test_events_of_host_and_cluster_are_one_stream(cluster: Cluster) -> None:
    since = cluster.docker("m1", "info", "-f", "{{.SystemTime}}")
    cluster.docker("m1", "service", "create", "-d", "--name", "told", "demo/web:1")
    cluster.docker("m1", "run", "--rm", "--name", "brief", "busybox", "true")
    cluster.docker("m1", "service", "rm", "told")
    form = '{{.Type}} {{.Action}} {{index .Actor.Attributes "name"}}'
    now = cluster.docker("m1", "info", "-f", "{{.SystemTime}}")
    told = cluster.docker(
        "m1", "events", "--since", since, "--until", now, "--format", form
    ).splitlines()
    wanted = ["service create told", "container start brief", "service remove told"]
    assert [line for line in told if line in wanted] == wanted
