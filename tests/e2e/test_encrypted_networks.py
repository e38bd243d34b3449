"""Encrypted networks through the stock CLI: reach, what the link shows, waiting."""

import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.integration.network.lab import inside
from tests.integration.network.sniffing import packet_socket, sniffing

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

NETWORK = "sealed"


@pytest.fixture
def sealed(cluster: Cluster) -> Iterator[Cluster]:
    cluster.docker("m1", "network", "create", "-d", "overlay", "--opt", "encrypted", NETWORK)
    yield cluster
    cluster.docker("m1", "network", "rm", NETWORK)


def create(cluster: Cluster, name: str, image: str, *words: str) -> None:
    flags = ("-q", "-d", "--no-resolve-image", "--name", name, "--network", NETWORK)
    cluster.docker(
        "m1", "service", "create", *flags, "--stop-grace-period", "1s", *words, image
    )


def place(cluster: Cluster, host: str, service: str) -> tuple[str, str]:
    """Namespace and address of the service's container on a host."""
    identity = cluster.docker(host, "ps", "-q", "-f", f"name={service}")
    form = '{{.State.Pid}} {{(index .NetworkSettings.Networks "' + NETWORK + '").IPAddress}}'
    pid, address = cluster.docker(host, "inspect", "-f", form, identity).split()
    return f"/proc/{pid}/ns/net", address


def ping(namespace: str, address: str, count: int = 2) -> str:
    words = ["busybox", "ping", "-q", "-i", "0.1", "-W", "1", "-c", str(count), address]
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", *words], capture_output=True, text=True, check=False
    )
    return done.stdout


def tunnels(cluster: Cluster, host: str) -> list[str]:
    """WireGuard's devices there, the kernel's or the program's."""
    netns = f"/run/netns/{cluster.hosts[host]['netns']}"
    shown = subprocess.run(
        ["nsenter", f"--net={netns}", "wg", "show", "interfaces"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [each for each in shown.stdout.split() if each.endswith(("-w0", "-w1"))]


def test_tasks_of_all_hosts_talk_and_the_link_shows_nothing(sealed: Cluster) -> None:
    create(sealed, "everywhere", "demo/web:1", "--mode", "global")
    sealed.await_running("m1", "everywhere", len(sealed.hosts), 60)
    near, _ = place(sealed, "m1", "everywhere")
    others = [place(sealed, host, "everywhere")[1] for host in ("m2", "w1", "w2")]
    for address in others:
        eventually(lambda at=address: ping(near, at), lambda said: " 0% packet" in said, 20)  # type: ignore[misc]
    netns = f"/run/netns/{sealed.hosts['m1']['netns']}"
    marker = b"nobody-may-read-this"
    with sniffing(inside(netns, lambda: packet_socket("eth0"))) as seen:
        with inside(near, lambda: socket.socket(type=socket.SOCK_DGRAM)) as sender:
            for address in others:
                sender.sendto(marker, (address, 9))
        assert all(" 0% packet" in ping(near, address) for address in others)
    assert seen.udp(51820)
    assert not seen.holds(marker)
    assert not any(marker in each for each in seen.udp(4789))
    pinging = subprocess.Popen(
        [
            "nsenter",
            f"--net={near}",
            "busybox",
            "ping",
            "-q",
            "-i",
            "0.1",
            "-c",
            "50",
            others[1],
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    for host in ("m1", "w1"):
        sealed.sandbox("kill", host, "agent")
    said, _ = pinging.communicate(timeout=30)
    assert " 0% packet loss" in said
    sealed.await_running("m1", "everywhere", len(sealed.hosts), 30)
    assert " 0% packet" in ping(near, others[1])
    sealed.docker("m1", "service", "rm", "everywhere")
    eventually(
        lambda: [each for host in sealed.hosts for each in tunnels(sealed, host)],
        lambda left: not left,
        30,
    )


def test_a_task_waits_and_says_why(sealed: Cluster) -> None:
    netns = f"/run/netns/{sealed.hosts['w1']['netns']}"
    words = ("--constraint", "node.hostname==w1")
    with inside(netns, _port_51820):
        create(sealed, "waiting", "busybox:latest", *words, "--entrypoint", "sleep 1000")
        said = eventually(
            lambda: sealed.docker(
                "m1", "service", "ps", "waiting", "--no-trunc", "--format", "{{.Error}}"
            ),
            lambda text: "UDP port 51820" in text,
            20,
        )
        assert f"network {NETWORK} is encrypted" in said
        assert sealed.running("m1", "waiting") == 0
    sealed.await_running("m1", "waiting", 1, 60)
    sealed.docker("m1", "service", "rm", "waiting")
    eventually(lambda: tunnels(sealed, "w1"), lambda left: not left, 30)


def _port_51820() -> socket.socket:
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", 51820))
    return made
