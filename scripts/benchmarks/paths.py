"""Paths between two network namespaces and what goes through them: throughput and latency.

Throughput is one TCP stream of iperf3, latency a 32-byte ping-pong over TCP; both programs are
the machine's own, moved into the namespaces.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

PING_PONG = Path(__file__).parent / "ping_pong.py"
IPERF_PORT, PING_PORT = 5201, 5202
_START_SECONDS = 10.0


class Sample(msgspec.Struct, frozen=True):
    """One round over one path."""

    gbit_s: float
    p50_us: float
    p99_us: float


def inside(pid: int, *words: str) -> list[str]:
    """A command in the network namespace of a process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", *words]


@contextmanager
def servers(pid: int) -> Iterator[None]:
    """Both servers, on all addresses of a process's namespace."""
    iperf = inside(pid, "iperf3", "-s", "-p", str(IPERF_PORT))
    ping = inside(pid, sys.executable, str(PING_PONG), "serve", str(PING_PORT))
    running = [
        subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        for each in (iperf, ping)
    ]
    try:
        _listening(pid, len(running))
        yield
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait()


def _listening(pid: int, count: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        ss = subprocess.run(
            inside(pid, "ss", "-Htln", f"sport >= {IPERF_PORT} and sport <= {PING_PORT}"),
            check=True,
            capture_output=True,
            text=True,
        )
        if len(ss.stdout.splitlines()) >= count:
            return
        if time.monotonic() > deadline:
            raise SystemExit("the servers of the measurement do not listen")
        time.sleep(0.05)


def measure(pid: int, target: str, seconds: float) -> Sample:
    """From a process's namespace to an address."""
    stream = subprocess.run(
        inside(pid, "iperf3", "-J", "-c", target, "-p", str(IPERF_PORT), "-t", f"{seconds:g}"),
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    told = json.loads(stream.stdout)
    if "error" in told:
        raise SystemExit(f"iperf3 to {target}: {told['error']}")
    ping = subprocess.run(
        inside(pid, sys.executable, str(PING_PONG), "ask", target, str(PING_PORT)),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    p50, p99 = json.loads(ping.stdout)
    return Sample(told["end"]["sum_received"]["bits_per_second"] / 1e9, p50, p99)


def answers(pid: int, target: str) -> bool:
    """Whether an address can be pinged from a process's namespace."""
    words = inside(pid, "busybox", "ping", "-c", "1", "-W", "1", target)
    done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL)
    return done.returncode == 0


class Bare:
    """Links between two namespaces with nothing of ours in between, on addresses of their own.

    `here` and `there` are (host's namespace, its address, container's pid). The VXLAN path has
    what ours has: on each host a bridge, a VXLAN device and a veth, with static entries.
    """

    VNI, PORT, MTU = 7_000_077, 4790, 1450

    def __init__(self, here: tuple[str, str, int], there: tuple[str, str, int]) -> None:
        self._ends = (here, there)

    def veth(self) -> str:
        """A veth pair straight between the two; the far address."""
        (_, _, near), (_, _, far) = self._ends
        ip("link", "add", "bnchv0", "netns", str(near), "type", "veth", "peer", "name",
           "bnchv0", "netns", str(far))  # fmt: skip
        for number, pid in enumerate((near, far), 1):
            run(inside(pid, "ip", "address", "add", f"192.0.2.{number}/24", "dev", "bnchv0"))
            run(inside(pid, "ip", "link", "set", "bnchv0", "up"))
        return "192.0.2.2"

    def vxlan(self) -> str:
        """A bridge and a VXLAN device on each host, and a veth each; the far address."""
        for number in (0, 1):
            self._vxlan_end(number)
        return "198.51.100.2"

    def _vxlan_end(self, number: int) -> None:
        netns, address, pid = self._ends[number]
        _, remote, _ = self._ends[1 - number]
        mtu = str(self.MTU)
        on = ("-n", netns)
        ip(*on, "link", "add", "bnchb", "type", "bridge", "mcast_snooping", "0")
        ip(*on, "link", "add", "bnchx", "type", "vxlan", "id", str(self.VNI), "local", address,
           "dstport", str(self.PORT), "nolearning")  # fmt: skip
        ip(*on, "link", "add", "bncht", "mtu", mtu, "type", "veth", "peer", "name", "bnchx0",
           "mtu", mtu, "netns", str(pid))  # fmt: skip
        for link in ("bnchx", "bncht"):
            ip(*on, "link", "set", link, "mtu", mtu, "master", "bnchb", "up")
        ip(*on, "link", "set", "bnchb", "mtu", mtu, "up")
        mine, theirs = (f"02:00:00:00:77:0{1 + each}" for each in (number, 1 - number))
        run(["bridge", *on, "fdb", "add", theirs, "dev", "bnchx", "self", "dst", remote])
        run(["bridge", *on, "fdb", "add", theirs, "dev", "bnchx", "master", "static"])
        run(inside(pid, "ip", "link", "set", "bnchx0", "address", mine, "up"))
        ours, other = (f"198.51.100.{1 + each}" for each in (number, 1 - number))
        run(inside(pid, "ip", "address", "add", f"{ours}/24", "dev", "bnchx0"))
        run(inside(pid, "ip", "neigh", "add", other, "lladdr", theirs, "dev", "bnchx0"))

    def remove(self) -> None:
        """Take all of it away; what is not there is no error."""
        (_, _, near), _ = self._ends
        for words in (
            inside(near, "ip", "link", "delete", "bnchv0"),
            *(
                ["ip", "-n", netns, "link", "delete", link]
                for netns, _, _ in self._ends
                for link in ("bncht", "bnchx", "bnchb")
            ),
        ):
            with suppress(subprocess.CalledProcessError):
                run(words)


def ip(*words: str) -> None:
    """One `ip` command."""
    run(["ip", *words])


def run(words: list[str]) -> None:
    """One command, quietly."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
