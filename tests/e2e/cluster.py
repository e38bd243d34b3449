"""A sandbox of real hosts, driven by the stock CLI: what the end-to-end tests stand on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
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
        found = (row.split()[1] for row in rows.splitlines() if row.startswith(f"{node} "))
        return next(found, "")

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

    def containers_on(self, host: str, service: str) -> dict[str, str]:
        """Running containers of a service on one host -> pid and start time."""
        label = f"label=com.docker.swarm.service.name={service}"
        ids = self.docker(host, "ps", "-q", "--no-trunc", "--filter", label).split()
        form = "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"
        rows = self.docker(host, "inspect", "--format", form, *ids) if ids else ""
        return {row.split(" ", 1)[0]: row.split(" ", 1)[1] for row in rows.splitlines()}

    def containers_of(self, service: str, hosts: Iterable[str] = ()) -> dict[str, str]:
        """The same, of several hosts; without any named, of all."""
        found: dict[str, str] = {}
        for host in hosts or self.hosts:
            found |= self.containers_on(host, service)
        return found

    def update_state(self, host: str, service: str) -> str:
        form = "{{.UpdateStatus.State}}"
        return self.docker(host, "service", "inspect", "-f", form, service, check=False).strip()

    def run_directory(self, host: str) -> Path:
        return Path(self.hosts[host]["docker_host"].removeprefix("unix://")).parent

    def daemons(self, host: str) -> list[int]:
        """Pids of every live process that runs Shoal's programs or etcd for this host."""
        wanted = str(self.run_directory(host)).encode()
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] in "ZX":
                continue
            if wanted in words and b"host" in words:
                found.add(int(entry.name))
            if words[0].endswith(b"etcd") and os.fsencode(self.etcd_directory(host)) == _cwd(
                entry
            ):
                found.add(int(entry.name))
        return sorted(found)

    def etcdctl(self, directory: Path, *words: str) -> str:
        """`etcdctl` on the member whose directory it is, over its private socket."""
        done = subprocess.run(
            ["etcdctl", "--endpoints=unix://localhost:2379", *words],
            cwd=directory,
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def etcd_directory(self, host: str) -> Path:
        return self.run_directory(host).with_name("state") / "etcd"

    def pids(self, host: str) -> dict[str, int | None]:
        path = self.run_directory(host) / "pids.json"
        pids: dict[str, int | None] = json.loads(path.read_text())
        return pids


def container_of(cluster: Cluster, host: str, service: str) -> str:
    """The id of a running container of a service on a host."""
    label = f"label=com.docker.swarm.service.name={service}"
    return cluster.docker(host, "ps", "-q", "--no-trunc", "--filter", label).split()[0]


def pid_of(cluster: Cluster, host: str, service: str) -> int:
    form = "{{.State.Pid}}"
    return int(
        cluster.docker(host, "inspect", "-f", form, container_of(cluster, host, service))
    )


def vip_of(cluster: Cluster, service: str, network: str) -> str:
    wanted = cluster.docker("m1", "network", "inspect", "-f", "{{.Id}}", network)
    endpoint = json.loads(
        cluster.docker("m1", "service", "inspect", "-f", "{{json .Endpoint}}", service)
    )
    found = [v["Addr"] for v in endpoint["VirtualIPs"] if v["NetworkID"] == wanted]
    return str(found[0]).partition("/")[0]


def _cwd(process: Path) -> bytes:
    try:
        return os.fsencode((process / "cwd").readlink())
    except OSError:
        return b""
