"""A host as on a real machine: its default directories and ports, no flag but its prefix.

It runs in mount and network namespaces of the test's own, with an empty /var/lib and /run:
nothing of the machine is seen or touched.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.cli.sandbox import cgroups
from tests.e2e.cluster import ROOT, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(120)]

INSTANCE = f"r{os.getpid() % 1000000}"
HAS = ("--labels", "disk=ssd", "--generic-resources", "gpu=uuid-1",
       "--generic-resources", "gpu=uuid-2")  # fmt: skip
SETTLE = """
mount --make-rprivate / && mount -t tmpfs none /var/lib && mount -t tmpfs none /run
mkdir -p /run/netns && hostname realhost && ip link set lo up
for n in 0 1; do
  ip link add eth$n type veth peer name peer$n && ip link set peer$n up && ip link set eth$n up
done
ip address add 192.0.2.10/24 dev eth0 && ip address add 198.51.100.10/24 dev eth1
"""


class Machine:
    """Holds the namespaces; the host in them can be started and stopped."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--uts", "sh", "-ec", f"{SETTLE}\necho on\nread x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "on\n"
        self._host: subprocess.Popen[bytes] | None = None

    def inside(self, *words: str) -> list[str]:
        target = ("--target", str(self._holder.pid))
        return ["nsenter", *target, "--mount", "--net", "--uts", *words]

    def start(self) -> None:
        shoal = (sys.executable, "-m", "shoal.cli", "host", "--instance", INSTANCE, *HAS)
        with self._log.open("ab") as log:
            self._host = subprocess.Popen(self.inside(*shoal), cwd=ROOT, stderr=log)
        eventually(lambda: self.docker("version"), lambda said: "Server" in said, 15)

    def stop(self) -> None:
        if self._host is not None:
            self._host.send_signal(signal.SIGTERM)
            assert self._host.wait(40) == 0

    def docker(self, *words: str) -> str:
        """Output and errors of the stock CLI."""
        return self.run("docker", "-H", "unix:///run/shoal/docker.sock", *words).stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(*words),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )

    def end(self) -> None:
        self.docker("swarm", "leave", "--force")
        self.stop()
        self._holder.communicate("\n")
        cgroups.remove_soon(f"shoal/{INSTANCE}")


@pytest.fixture(scope="module")
def machine(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("real") / "host.log")
    try:
        made.start()
        yield made
    finally:
        made.end()


def test_init_asks_which_of_two_addresses_it_shall_be(machine: Machine) -> None:
    said = machine.docker("swarm", "init")
    assert (
        "could not choose an IP address to advertise since this system has multiple addresses "
        "on different interfaces (192.0.2.10 on eth0 and 198.51.100.10 on eth1)" in said
    )
    for wrong, why in (
        ("203.0.113.9", "203.0.113.9 is not an address of this host"),
        ("nosuch0", "nosuch0 is neither an IP address nor an interface"),
        ("192.0.2.10:2999", "this host serves on port 2377, not on 2999"),
    ):
        assert f"AdvertiseAddr: {why}" in machine.docker(
            "swarm", "init", "--advertise-addr", wrong
        )


@pytest.mark.parametrize("port", [2377, 2378, 2384, 7946])
def test_a_taken_port_is_named(machine: Machine, port: int) -> None:
    script = (
        f"import socket; s = socket.create_server(('', {port})); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        machine.inside(sys.executable, "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = machine.docker("swarm", "init", "--advertise-addr", "eth0")
        assert f"port {port}/tcp" in said
        assert f"(pid {other.pid})" in said
        doctor = machine.run(sys.executable, "-m", "shoal.cli", "doctor", "--quiet")
        assert f"[FAIL] ports: port {port}/tcp" in doctor.stdout
        assert doctor.returncode == 1
        other.communicate("\n")


def test_a_service_outlives_the_daemons(machine: Machine) -> None:
    assert "is now a manager" in machine.docker("swarm", "init", "--advertise-addr", "eth0")
    archive = ROOT / "build" / "images" / "demo-sleep-1.tar"
    machine.docker("load", "-q", "-i", str(archive))
    machine.docker(
        "service", "create", "-d", "--name", "web", "--replicas", "2", "demo/sleep:1"
    )
    replicas = ("service", "ls", "--format", "{{.Replicas}}")
    eventually(lambda: machine.docker(*replicas).strip(), lambda said: said == "2/2", 20)
    before = pids(machine)
    machine.stop()
    machine.start()
    assert pids(machine) == before
    eventually(lambda: machine.docker(*replicas).strip(), lambda said: said == "2/2", 20)


def test_what_a_host_says_of_itself_is_where_tasks_are_placed_by(machine: Machine) -> None:
    wanted = ("--constraint", "engine.labels.disk==ssd", "--generic-resource")
    for name, claim in (("fits", "gpu=1"), ("waits", "gpu=3")):
        machine.docker("service", "create", "-d", "--name", name, *wanted, claim,
                       "demo/sleep:1")  # fmt: skip
    form = ("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}")
    eventually(lambda: machine.docker(*form, "fits"), lambda s: s.startswith("Running"), 20)
    assert "not enough" in machine.docker(*form, "waits")
    found = machine.docker("ps", "-q", "--filter", "name=fits.1").strip()
    environment = machine.docker("inspect", "-f", "{{.Config.Env}}", found)
    assert "DOCKER_RESOURCE_GPU=uuid-1" in environment
    assert machine.docker("info", "-f", "{{.Labels}}").strip() == "[disk=ssd]"
    machine.docker("service", "rm", "fits", "waits")


def test_the_doctor_finds_nothing_wrong(machine: Machine) -> None:
    doctor = machine.run(sys.executable, "-m", "shoal.cli", "doctor", "--json")
    told = json.loads(doctor.stdout)
    problems = [each for each in told["findings"] if each["level"] == "problem"]
    assert problems == []
    assert doctor.returncode == 0
    said = " ".join(each["says"] for each in told["findings"])
    assert "port 2377/tcp (managers' gRPC) is held by this host's manager" in said
    assert "the clock agrees with that of manager 192.0.2.10:2377" in said
    assert "the node's certificate is valid until" in said


def pids(machine: Machine) -> list[str]:
    ids = machine.docker("ps", "-q", "--no-trunc").split()
    form = "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"
    return sorted(machine.docker("inspect", "-f", form, *ids).splitlines())
