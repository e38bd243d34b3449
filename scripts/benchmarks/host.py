"""One host of a sandbox, asked over its Engine API socket."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from typing_extensions import override

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
REST = 10.0
"""A connection at rest for longer is not used again."""
_TICKS = os.sysconf("SC_CLK_TCK")
LOOK = 0.02  # looking costs daemons and processors too


class _Unix(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=60)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Host:
    """A manager host."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.address, self.netns = str(told["address"]), str(told["netns"])
        self._told = told
        self.socket = str(told["docker_host"]).removeprefix("unix://")
        self.run = Path(self.socket).parent
        self._line = _Unix(self.socket)
        self._asked = time.monotonic()

    def anew(self) -> "Host":
        """The same host by a new connection: the old one died with it."""
        return Host(self._told)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One call of the API; its JSON."""
        data = json.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data else {}
        now = time.monotonic()
        if now - self._asked > REST:
            self._line.close()  # the other end may have done so; it opens again by itself
        self._asked = now
        self._line.request(method, "/v1.50" + path, data, headers)
        answer = self._line.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text) if text else None

    def serves(self) -> bool:
        """Whether this host answers for the cluster."""
        try:
            line = _Unix(self.socket)
            line.request("GET", "/v1.50/nodes")
            return line.getresponse().status == 200
        except (OSError, HTTPException):
            return False

    def create(self, name: str, replicas: int, image: str, **spec: Any) -> None:
        """A service."""
        body = {
            "Name": name,
            "TaskTemplate": {"ContainerSpec": {"Image": image}},
            "Mode": {"Replicated": {"Replicas": replicas}},
            **spec,
        }
        self.ask("POST", "/services/create", body)

    def running(self, name: str) -> int:
        """Running tasks of a service, as `service ls` counts them."""
        filters = quote(json.dumps({"name": {name: True}}))
        found = self.ask("GET", f"/services?status=true&filters={filters}")
        return int(found[0]["ServiceStatus"]["RunningTasks"]) if found else 0

    def containers(self) -> int:
        return len(self.ask("GET", "/containers/json?all=1"))

    def container_pids(self) -> list[int]:
        """The first process of each running container."""
        listed = self.ask("GET", "/containers/json")
        found = (self.ask("GET", f"/containers/{each['Id']}/json") for each in listed)
        return [int(each["State"]["Pid"]) for each in found]

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.run / "pids.json").read_text())
        return found


def until(look: Callable[[], bool], what: str, patience: float = PATIENCE) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > patience:
            raise SystemExit(f"not within {patience:.0f} s: {what}")
        time.sleep(LOOK)
    return time.monotonic() - began


def used(pid: int, *, children: bool = False) -> float:
    """Seconds of processor time of a process; with children, those it has waited for too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / _TICKS


def monitors(host: Host) -> list[int]:
    """Pids of all conmons whose command line names this host's directories."""
    mine, found = str(host.run.parent), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"conmon") and mine.encode() in b" ".join(command):
            found.append(int(entry.name))
    return found


@contextmanager
def sandbox(managers: int, workers: int) -> Iterator[list[Host]]:
    """A cluster whose hosts have the demo images; removed at the end."""
    subprocess.run([str(ROOT / "scripts" / "images")], check=True, stdout=sys.stderr)
    name = f"b{os.getpid() % 100000}"
    shoal = [sys.executable, "-m", "shoal.cli", "sandbox"]
    size = ["--managers", str(managers), "--workers", str(workers)]
    up = [*shoal, "up", *size, "--name", name, "--json"]
    try:
        told = subprocess.run(up, check=True, cwd=ROOT, stdout=subprocess.PIPE).stdout
        hosts = [Host(each) for each in json.loads(told)["hosts"]]
        for host in hosts:
            for image in ("demo-web-1", "demo-web-2", "demo-sleep-1"):
                archive = ROOT / "build" / "images" / f"{image}.tar"
                load = ["docker", "-H", f"unix://{host.socket}", "load", "-q"]
                subprocess.run([*load, "-i", str(archive)], check=True, stdout=sys.stderr)
        yield hosts
    finally:
        subprocess.run([*shoal, "down", "--name", name], check=True, cwd=ROOT)


@contextmanager
def one_host() -> Iterator[Host]:
    """A cluster of one manager."""
    with sandbox(1, 0) as hosts:
        yield hosts[0]
