"""A sandbox of real hosts, driven by the stock CLI: what the end-to-end tests stand on."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def eventually(look: Callable[[], T], want: Callable[[T], bool], seconds: float) -> T:
    """Look again and again until it is as wanted; fails with what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if want(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s; last seen: {seen}"


class Cluster:
    """Hosts of one sandbox."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hosts: dict[str, dict[str, Any]] = {}

    def sandbox(self, *words: str, seconds: float = 120) -> str:
        """`shoal sandbox WORDS --name NAME`; its output."""
        command = [sys.executable, "-m", "shoal.cli", "sandbox", *words, "--name", self.name]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    def up(self, managers: int, workers: int, *flags: str) -> None:
        sizes = ("--managers", str(managers), "--workers", str(workers))
        told = json.loads(self.sandbox("up", *sizes, "--json", *flags))
        self.hosts = {host["name"]: host for host in told["hosts"]}

    def docker(self, host: str, *words: str, check: bool = True, stdin: str = "") -> str:
        """The stock CLI against one host's socket; stdout, or all output where it may fail."""
        done = self.run(host, *words, stdin=stdin)
        if check:
            assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
            return done.stdout.strip()
        return done.stdout + done.stderr

    def run(
        self, host: str, *words: str, stdin: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """The stock CLI with its exit code."""
        return subprocess.run(
            ["docker", "-H", self.hosts[host]["docker_host"], *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def call(self, host: str, path: str) -> Any:
        """JSON of the Engine API itself; None while nobody answers."""
        socket = self.hosts[host]["docker_host"].removeprefix("unix://")
        ask = ["curl", "-sf", "--unix-socket", socket, f"http://docker/v1.50{path}"]
        done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def load(self, image: str) -> None:
        """Have an image of `build/images` on every host."""
        archive = ROOT / "build" / "images" / f"{image}.tar"
        for host in self.hosts:
            self.docker(host, "load", "-q", "-i", str(archive))

    def tasks(self, host: str, service: str) -> list[tuple[str, str]]:
        """(node, current state's first word) of the service's tasks that are to run."""
        rows = self.docker(
            host,
            *("service", "ps", service, "--filter", "desired-state=running"),
            *("--format", "{{.Node}} {{.CurrentState}}"),
        )
        return [(r.split()[0], r.split()[1]) for r in rows.splitlines() if len(r.split()) > 1]

    def running(self, host: str, service: str) -> int:
        return sum(state == "Running" for _, state in self.tasks(host, service))

    def await_running(self, host: str, service: str, count: int, seconds: float) -> None:
        eventually(lambda: self.running(host, service), lambda n: n == count, seconds)

    def get(self, host: str, port: int) -> str:
        """What the host answers on a published port, asked from the machine."""
        url = f"http://{self.hosts[host]['address']}:{port}/"
        done = subprocess.run(
            ["curl", "-s", "-m", "5", url], capture_output=True, text=True, check=False
        )
        return done.stdout

    def leader(self, host: str) -> str:
        rows = self.docker(host, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
        return next(row.split()[0] for row in rows.splitlines() if row.endswith("Leader"))

    def node_state(self, host: str, node: str) -> str:
        rows = self.docker(host, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
        return next(row.split()[1] for row in rows.splitlines() if row.startswith(node))

    def containers(self) -> dict[str, str]:
        """Every running container of every host -> its pid and start time."""
        found: dict[str, str] = {}
        for host in self.hosts:
            ids = self.docker(host, "ps", "-q", "--no-trunc").split()
            form = "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"
            rows = self.docker(host, "inspect", "--format", form, *ids) if ids else ""
            for row in rows.splitlines():
                identity, _, facts = row.partition(" ")
                found[identity] = facts
        return found

    def pids(self, host: str) -> dict[str, int | None]:
        run = Path(self.hosts[host]["docker_host"].removeprefix("unix://")).parent
        pids: dict[str, int | None] = json.loads((run / "pids.json").read_text())
        return pids
