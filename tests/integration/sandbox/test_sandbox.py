"""`shoal sandbox` on the real kernel, with a stand-in for the daemons."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
STAND_IN = Path(__file__).with_name("stand_in.py")


class Sandbox:
    """Runs the command with a base directory, a name and a program of the test's own."""

    def __init__(self, directory: Path, name: str) -> None:
        program = directory / "shoal"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {STAND_IN} "$@"\n')
        program.chmod(0o755)
        self.base = directory / "base"
        self.name = name
        self.environment = {
            **os.environ,
            "SHOAL_SANDBOX_DIR": str(self.base),
            "SHOAL_SANDBOX_PROGRAM": str(program),
        }

    def call(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "shoal.cli",
                "sandbox",
                verb,
                "--name",
                self.name,
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )

    def run(self, verb: str, *arguments: str) -> str:
        done = self.call(verb, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hosts(self) -> dict[str, Any]:
        told = json.loads(self.run("ls", "--json"))
        return {host["name"]: host for host in told["hosts"]}

    def box(self, host: str) -> int:
        return int((self.base / self.name / host / "run" / "box.pid").read_text())

    def reaches(self, host: str, address: str) -> bool:
        ping = ("busybox", "ping", "-c", "1", "-W", "1", address)
        return self.call("exec", host, "--", *ping).returncode == 0


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def traces(sandbox: Sandbox) -> list[str]:
    found = [str(p) for p in Path("/run/netns").glob(f"shoal-{sandbox.name}-*")]
    for root in ("/sys/fs/cgroup", *map(str, Path("/sys/fs/cgroup").glob("*/"))):
        found += [str(p) for p in Path(root).glob(f"shoal-sandbox/{sandbox.name}*")]
    found += [str(sandbox.base)] if sandbox.base.exists() else []
    return found


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path, f"t{os.getpid()}")
    try:
        yield made
    finally:
        made.run("down")
        assert traces(made) == []


def test_up_twice_exec_and_names(sandbox: Sandbox) -> None:
    told = json.loads(
        sandbox.run("up", "--bare", "--managers", "1", "--workers", "1", "--json")
    )
    assert [host["name"] for host in told["hosts"]] == ["m1", "w1"]
    assert all(
        set(host["pids"]) == {"host", "agent", "manager", "etcd"} for host in told["hosts"]
    )
    again = sandbox.call("up", "--bare", "--managers", "1", "--workers", "1", "--json")
    assert "already up" in again.stderr
    assert json.loads(again.stdout) == told
    other = sandbox.call("up", "--bare", "--managers", "3")
    assert other.returncode == 1
    assert "in another shape" in other.stderr
    inside = sandbox.run("exec", "w1", "--", "sh", "-c", 'hostname; echo "$DOCKER_HOST"')
    assert inside.split() == ["w1", told["hosts"][1]["docker_host"]]
    assert (sandbox.base / sandbox.name / "w1" / "run" / "hostname").read_text() == "w1"
    assert sandbox.call("exec", "w1", "--", "sh", "-c", "exit 7").returncode == 7
    assert sandbox.run("exec", "w1", "--", "ip", "route", "show", "default") == ""


def test_stop_keeps_containers_and_a_power_cut_does_not(sandbox: Sandbox) -> None:
    sandbox.run("up", "--bare", "--managers", "1", "--workers", "0")
    before = sandbox.hosts()["m1"]["pids"]
    box = sandbox.box("m1")
    sandbox.run("stop", "m1")
    assert sandbox.hosts()["m1"]["pids"] == {}
    assert not any(alive(pid) for pid in before.values())
    assert alive(box)
    sandbox.run("start", "m1")
    assert alive(box)
    second = sandbox.box("m1")
    state = sandbox.base / sandbox.name / "m1" / "state" / "kept"
    state.write_text("kept")
    sandbox.run("kill", "m1")
    assert not alive(box)
    assert not alive(second)
    assert sandbox.call("exec", "m1", "--", "true").returncode == 1
    assert not (state.parent.parent / "run").exists()
    sandbox.run("start", "m1")
    assert state.read_text() == "kept"
    assert set(sandbox.hosts()["m1"]["pids"]) == {"host", "agent", "manager", "etcd"}


def test_kill_one_daemon_or_all(sandbox: Sandbox) -> None:
    sandbox.run("up", "--bare", "--managers", "1", "--workers", "0")
    before = sandbox.hosts()["m1"]["pids"]
    sandbox.run("kill", "m1", "etcd")
    assert not alive(before["etcd"])
    assert alive(before["agent"])
    refused = sandbox.call("kill", "m1", "etcd")
    assert refused.returncode == 1
    assert "no etcd of m1 runs" in refused.stderr
    sandbox.run("kill", "m1", "host")
    assert not any(alive(pid) for pid in before.values())
    assert alive(sandbox.box("m1"))
    sandbox.run("start", "m1")
    sandbox.run("kill", "m1", "daemons")
    assert sandbox.hosts()["m1"]["pids"] == {}


def test_links(sandbox: Sandbox) -> None:
    sandbox.run("up", "--bare", "--managers", "2", "--workers", "1")
    m1 = sandbox.hosts()["m1"]["address"]
    assert sandbox.reaches("m2", m1)
    sandbox.run("link", "m1", "drop", "m2")
    assert not sandbox.reaches("m2", m1)
    assert sandbox.reaches("w1", m1)
    assert "cut off from m2" in sandbox.run("ls")
    sandbox.run("link", "m1", "down")
    assert not sandbox.reaches("w1", m1)
    sandbox.run("link", "m1", "up")
    assert sandbox.reaches("m2", m1)
    assert sandbox.call("link", "m1", "drop").returncode == 1
    assert sandbox.call("link", "m1", "drop", "m1").returncode == 1


def test_a_host_that_does_not_start_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.base.mkdir()
    (sandbox.base / sandbox.name).mkdir()
    (sandbox.base / sandbox.name / "refuse").touch()
    failed = sandbox.call("up", "--bare", "--managers", "1", "--workers", "0")
    assert failed.returncode == 1
    assert "the stand-in was told to refuse" in failed.stderr
    assert traces(sandbox) == []


def test_two_at_once_take_two_ranges(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Sandbox(tmp_path / "second", f"{sandbox.name}-b")
    arguments = ("--bare", "--managers", "1", "--workers", "0")
    try:
        sandbox.run("up", *arguments)
        second.run("up", *arguments)
        one, other = sandbox.hosts()["m1"], second.hosts()["m1"]
        assert one["address"].split(".")[2] != other["address"].split(".")[2]
        assert not sandbox.reaches("m1", other["address"])
    finally:
        second.run("down")
    assert traces(second) == []
    assert sandbox.hosts()["m1"]["pids"] != {}
