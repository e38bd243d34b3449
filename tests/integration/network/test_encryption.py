"""The tunnel on this machine's WireGuard, whichever it has: made, adopted, given a new key."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.network.encryption import Encryption, Tunnel
from agent.network.netlink import Channel
from agent.network.netns import enter
from agent.network.plan import names_for
from agent.network.tunnel import ROTATE_SECONDS, TunnelPeer, inner_address
from shoal.model.ids import NodeID
from tests.integration.network import lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


class End:
    """One host's end; calls are made in its namespace."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.ahead = 0.0
        self.opened: list[tuple[Encryption, Channel]] = []
        self.open()

    def open(self) -> None:
        # wireguard-go's sockets are the machine's: names of another run must not meet ours
        names = names_for(f"{self.host}{os.getpid() % 100000}")

        def make() -> None:
            channel = Channel()
            self.end = Encryption(names, channel, self.now)
            self.opened.append((self.end, channel))

        self.call(make)

    def now(self) -> float:
        return time.time() + self.ahead  # noqa: TID251 - the kernel's handshakes carry this time

    def close(self) -> None:
        for end, channel in reversed(self.opened):
            self.call(end.destroy)
            channel.close()

    def call(self, work: Callable[[], object]) -> None:
        """Run in a thread that is in the host's namespace."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with Path(f"{lab.namespace(self.host)}").open("rb") as namespace:
                    enter(namespace.fileno())
                work()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    def apply(self, *others: "End") -> None:
        wanted = Tunnel(
            subnet=lab.SUBNETS[self.host],
            mtu=1440,
            peers=tuple(
                TunnelPeer(
                    node_id=NodeID(other.host),
                    underlay=lab.ADDRESSES[other.host],
                    subnet=lab.SUBNETS[other.host],
                    keys=other.end.keys,
                )
                for other in others
            ),
        )
        self.call(lambda: self.end.apply(wanted))

    @property
    def keys(self) -> set[str]:
        return {key.public_key for key in self.end.keys}


def settle(a: End, b: End) -> None:
    deadline = time.monotonic() + 20
    while True:
        a.apply(b)
        b.apply(a)
        if a.end.settled and b.end.settled and a.keys and b.keys:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    with lab.hosts():
        a, b = End("a"), End("b")
        try:
            yield a, b
        finally:
            for each in (a, b):
                each.close()


def ping(slot: int, count: int = 3) -> str:
    inner = inner_address(lab.SUBNETS["b"], slot)
    words = f"busybox ping -q -c {count} -i 0.05 -W 1 {inner}"
    return lab.in_host("a", *words.split())


def slot_of(end: End) -> int:
    return end.end.keys[-1].slot


def test_hosts_reach_each_other_inside_only(ends: tuple[End, End]) -> None:
    a, b = ends
    settle(a, b)
    assert " 0% packet loss" in ping(slot_of(b))


def test_a_restarted_agent_finds_its_keys_again(ends: tuple[End, End]) -> None:
    a, b = ends
    settle(a, b)
    before = a.keys
    a.open()
    settle(a, b)
    assert a.keys == before
    assert " 0% packet loss" in ping(slot_of(b))


def test_a_new_key_loses_no_packet(ends: tuple[End, End]) -> None:
    a, b = ends
    settle(a, b)
    old, slot = b.keys, slot_of(b)
    target = inner_address(lab.SUBNETS["b"], slot)
    command = [
        "nsenter",
        f"--net={lab.namespace('a')}",
        "busybox",
        "ping",
        "-q",
        "-i",
        "0.02",
        "-c",
        "100",
    ]
    pinging = subprocess.Popen([*command, target], stdout=subprocess.PIPE, text=True)
    b.ahead = ROTATE_SECONDS + 1
    b.apply(a)
    assert len(b.end.keys) == 2
    answered, _ = pinging.communicate(timeout=20)
    assert " 0% packet loss" in answered
    settle(a, b)
    assert len(b.keys) == 1
    assert not b.keys & old
    assert " 0% packet loss" in ping(slot_of(b))


def test_nothing_is_left(ends: tuple[End, End]) -> None:
    a, b = ends
    settle(a, b)
    a.call(lambda: a.end.apply(None))
    assert "wireguard" not in lab.in_host("a", "ip", "-d", "link")
    assert "-w0" not in lab.in_host("a", "ip", "link")
