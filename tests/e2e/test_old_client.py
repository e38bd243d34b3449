"""The main path through Debian 12's own CLI, 20.10, which speaks API 1.41."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import ROOT, Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

STACK = """
version: "3.8"
services:
  web: {image: "demo/web:1", ports: ["8391:80"], deploy: {replicas: 2}}
"""
Docker = Callable[..., str]


@pytest.fixture(scope="module")
def client() -> Path:
    """The CLI alone, unpacked from Debian's docker.io; nothing is installed or started."""
    place = ROOT / "build" / "old-client"
    found = place / "unpacked" / "usr" / "bin" / "docker"
    if not found.exists():
        place.mkdir(parents=True, exist_ok=True)
        steps = "apt-get -qq download docker.io && dpkg-deb -x ./docker.io_*.deb unpacked"
        done = subprocess.run(
            ["sh", "-c", f"{steps}; rm -f ./docker.io_*.deb"],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if not found.exists():
            pytest.skip(f"Debian's docker.io cannot be had here: {done.stderr[-200:]}")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if "20.10." not in said.stdout:
        pytest.skip(f"Debian's docker.io is not 20.10 here: {said.stdout}")
    return found


@pytest.fixture
def docker(client: Path, cluster: Cluster) -> Docker:
    """Runs it against the first manager; its output."""

    def run(*words: str, stdin: str = "") -> str:
        command = [str(client), "-H", cluster.hosts["m1"]["docker_host"], *words]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    return run


def test_containers(docker: Docker) -> None:
    assert (
        docker("version", "-f", "{{.Client.APIVersion}} {{.Server.APIVersion}}") == "1.41 1.50"
    )
    assert docker("run", "-i", "--rm", "busybox", "cat", stdin="piped") == "piped"
    docker("run", "-d", "--name", "old", "busybox", "sh", "-c", "echo said; sleep 60")
    assert docker("exec", "old", "echo", "hi") == "hi"
    eventually(lambda: docker("logs", "old"), lambda text: text == "said", 5)
    assert docker("ps", "--filter", "name=old", "--format", "{{.Names}}") == "old"
    docker("rm", "-f", "old")


def test_services(docker: Docker) -> None:
    quick = (
        "--update-monitor",
        "1ms",
        "--rollback-monitor",
        "1ms",
        "--update-parallelism",
        "0",
    )
    create = ("service", "create", "--name", "oldest", "--replicas", "2", *quick)
    assert "Service converged" in docker(*create, "-p", "8390:80", "demo/web:1")
    rows = docker("service", "ps", "oldest", "--format", "{{.CurrentState}}").splitlines()
    assert [row.split()[0] for row in rows] == ["Running", "Running"]
    assert (
        docker("service", "ls", "--filter", "name=oldest", "--format", "{{.Replicas}}") == "2/2"
    )
    state = "{{.UpdateStatus.State}} {{.Spec.TaskTemplate.ContainerSpec.Image}}"
    assert "overall progress" in docker("service", "update", "--image", "demo/web:2", "oldest")
    assert docker("service", "inspect", "-f", state, "oldest") == "completed demo/web:2"
    eventually(
        lambda: docker("service", "logs", "oldest"),
        lambda said: "demo/web:2 listens" in said,
        10,
    )
    assert "overall progress" in docker("service", "rollback", "oldest")
    assert (
        docker("service", "inspect", "-f", state, "oldest") == "rollback_completed demo/web:1"
    )
    docker("service", "rm", "oldest")


def test_stacks(docker: Docker, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(STACK)
    docker("stack", "deploy", "--resolve-image", "never", "-c", str(file), "aged")
    eventually(
        lambda: docker("stack", "services", "aged", "--format", "{{.Replicas}}"),
        lambda said: said == "2/2",
        20,
    )
    assert len(docker("stack", "ps", "-q", "aged").splitlines()) == 2
    docker("stack", "rm", "aged")
    assert "aged" not in docker("stack", "ls")
