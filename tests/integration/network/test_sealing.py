"""Encrypted networks on three hosts, real kernel: reach, secrecy, fail closed, repair, keys."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from agent.network.desired import Endpoint, Peer
from agent.network.host_network import HostNetwork
from agent.network.tunnel import ROTATE_SECONDS, inner_address
from shoal.model.errors import Unavailable
from tests.integration.network.lab import (
    ADDRESSES,
    LOCAL,
    SUBNETS,
    ask,
    connect,
    in_host,
    inside,
    leftovers,
    mesh,
    namespace,
    serving,
)
from tests.integration.network.managers import Managers
from tests.integration.network.sniffing import (
    packet_socket,
    sniffing,
    userspace_programs,
    userspace_sockets,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
]

VNI, CLEAR_VNI = 4100, 4097
PREFIX = f"s{os.getpid() % 10000:04d}"
"""Userspace WireGuard's sockets are shared by all namespaces of a machine."""


class ShiftedClock:
    """The machine's clock, set ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead  # noqa: TID251 - the kernel's handshakes carry it

    def monotonic(self) -> float:
        return time.monotonic()


class Sealed:
    """Three hosts that hear of each other's keys, as by managers."""

    def __init__(self) -> None:
        self.clocks = {host: ShiftedClock() for host in SUBNETS}
        self.hosts: dict[str, HostNetwork] = {}
        self.managers = Managers(self.hosts)
        self.repairing: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    async def open(self, host: str) -> None:
        made = HostNetwork(
            prefix=f"{PREFIX}{host}",
            local_subnet=LOCAL,
            namespace=namespace(host),
            clock=self.clocks[host],
        )
        made.report_changed = self._news.set
        self.hosts[host] = made
        await made.start()
        await self.tell_mesh(host)
        self.repairing[host] = asyncio.create_task(made.run())  # noqa: TID251 - see `rest`

    async def close(self, host: str) -> None:
        await self.rest(host)
        await self.hosts[host].stop()

    async def rest(self, host: str) -> None:
        """No more repairs on this host."""
        self.repairing[host].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.repairing[host]

    async def tell_mesh(self, host: str) -> None:
        told = mesh(host)
        peers = tuple(
            Peer(
                node=each.node,
                underlay=each.underlay,
                subnet=each.subnet,
                tunnel=self.hosts[each.node].tunnel_keys if each.node in self.hosts else (),
            )
            for each in told.peers
        )
        await self.hosts[host].set_mesh(replace(told, peers=peers))

    async def relay(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for host in list(self.hosts):
                await self.tell_mesh(host)

    def keys(self, host: str) -> set[str]:
        return {each.public_key for each in self.hosts[host].tunnel_keys}


@pytest.fixture
async def sealed() -> AsyncIterator[Sealed]:
    made = Sealed()
    for host in SUBNETS:
        await made.open(host)
    relaying = asyncio.create_task(made.relay())  # noqa: TID251 - ended below
    yield made
    relaying.cancel()
    for host in SUBNETS:
        await made.rest(host)
        await made.hosts[host].destroy()
        assert leftovers(host) == ""
    assert userspace_sockets(PREFIX) == []
    assert userspace_programs(PREFIX) == set()


def device(host: str, slot: int = 0) -> str:
    return f"{PREFIX}{host}-w{slot}"


async def reaches(client: Endpoint, address: str = "10.50.0.11", within: float = 1) -> bool:
    try:
        await ask(client.netns_path, address, 80, within)
    except (OSError, TimeoutError):
        return False
    return True


async def until(condition: Callable[[], Awaitable[bool]], within: float = 15) -> None:
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.05)


async def pair(sealed: Sealed) -> tuple[Endpoint, Endpoint]:
    """Tasks of the encrypted network on two hosts."""
    one = await sealed.managers.run("one", "a", 10, "secret")
    far = await sealed.managers.run("far", "b", 11, "secret")
    return one, far


def fabric() -> Path:
    return namespace("f")


async def test_tasks_reach_each_other_and_the_link_shows_nothing(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    third = await sealed.managers.run("third", "c", 12, "secret")
    red = await sealed.managers.run("red", "a", 20, "red")
    red_far = await sealed.managers.run("red-far", "b", 21, "red")
    async with (
        serving(far.netns_path, "whisper"),
        serving(third.netns_path, "third"),
        serving(red_far.netns_path, "loudly"),
    ):
        await until(lambda: reaches(one))
        await until(lambda: reaches(far, "10.50.0.12"))
        with sniffing(inside(fabric(), lambda: packet_socket("fa"))) as seen:
            for address in ("10.50.0.11", "fd50::b"):
                assert (await ask(one.netns_path, address, 80))[0] == "whisper"
            assert (await ask(one.netns_path, "10.50.0.12", 80))[0] == "third"
            assert (await ask(red.netns_path, "10.50.0.21", 80))[0] == "loudly"
        assert seen.udp(51820)
        assert seen.vxlan(VNI) == []
        assert not seen.holds(b"whisper")
        # what is not encrypted is seen: this test can see
        assert seen.vxlan(CLEAR_VNI)
        assert seen.holds(b"loudly")
        assert not await reaches(red, within=0.3)
    assert "mtu 1390" in in_host("a", "ip", "link", "show", f"{PREFIX}a-v001004")
    assert "mtu 1390" in in_task(one, "ip", "link", "show", "eth0")


async def test_a_host_that_does_not_answer_is_told_once(sealed: Sealed) -> None:
    def told(logs: Sequence[Mapping[str, Any]], of: str) -> list[str]:
        return [str(each["address"]) for each in logs if each["event"].startswith(of)]

    in_host("b", "nft", "add table inet deaf; add chain inet deaf in { type filter hook input"
            " priority -20; udp dport 51820 drop; }")  # fmt: skip
    try:
        await pair(sealed)
        await until(lambda: _knows(sealed, "a", "b"))
        with capture_logs() as logs:
            await sealed.hosts["a"].repair()
            assert told(logs, "a host does not answer") == []  # it may still
            sealed.clocks["a"].ahead += timedelta(seconds=20)
            for _ in range(2):
                await sealed.hosts["a"].repair()
            assert told(logs, "a host does not answer") == [ADDRESSES["b"]]
    finally:
        in_host("b", "nft", "delete table inet deaf")
    with capture_logs() as logs:
        await until(lambda: _answers(sealed, lambda: told(logs, "a host answers")))


async def _knows(sealed: Sealed, host: str, other: str) -> bool:
    """Whether a host has been told of the other's key, and has it in its tunnel."""
    with contextlib.suppress(subprocess.CalledProcessError):
        shown = in_host(host, "wg", "show", device(host), "peers").split()
        return sealed.keys(other) <= {*shown} and bool(sealed.keys(other))
    return False


async def _answers(sealed: Sealed, told: Callable[[], list[str]]) -> bool:
    await sealed.hosts["a"].repair()
    return told() == [ADDRESSES["b"]]


def in_task(endpoint: Endpoint, *command: str) -> str:
    return in_host("a", "nsenter", f"--net={endpoint.netns_path}", *command)


async def test_a_packet_in_clear_is_dropped_on_arrival(sealed: Sealed) -> None:
    one, _ = await pair(sealed)
    red = await sealed.managers.run("red", "a", 20, "red")
    for endpoint, vni, number, arrives in (
        (red, CLEAR_VNI, 20, True),
        (one, VNI, 10, False),
    ):
        with (
            inside(endpoint.netns_path, _listener) as listener,
            inside(namespace("c"), lambda: socket.socket(type=socket.SOCK_DGRAM)) as sender,
        ):
            sender.sendto(_vxlan(vni, number), (ADDRESSES["a"], 4789))
            assert (await _heard(listener) == b"forged") is arrives, vni


async def test_a_container_cannot_send_into_the_tunnel(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
    inner = inner_address(SUBNETS["b"], 0)
    with (
        inside(far.netns_path, _listener) as listener,
        inside(one.netns_path, lambda: socket.socket(type=socket.SOCK_DGRAM)) as sender,
        inside(namespace("a"), lambda: socket.socket(type=socket.SOCK_DGRAM)) as host,
    ):
        sender.sendto(_vxlan(VNI, 11), (inner, 4789))
        assert await _heard(listener) == b""
        host.sendto(_vxlan(VNI, 11), (inner, 4789))  # what the kernel itself would do
        assert await _heard(listener) == b"forged"


async def test_without_the_tunnel_nothing_leaves(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
        for host in SUBNETS:
            await sealed.rest(host)
        inner = inner_address(SUBNETS["b"], 0)
        in_host("a", "ip", "link", "delete", device("a"))
        in_host("a", "ip", "route", "add", inner, "via", ADDRESSES["b"], "dev", "eth0")
        with sniffing(inside(fabric(), lambda: packet_socket("fa"))) as seen:
            assert not await reaches(one, within=0.5)
        assert seen.vxlan(VNI) == []
        in_host("a", "nft", "flush", "chain", "inet", f"shoal_{PREFIX}a", "sealed_output")
        with sniffing(inside(fabric(), lambda: packet_socket("fa"))) as seen:
            assert not await reaches(one, within=0.5)
        assert seen.vxlan(VNI)  # it was the rule
        in_host("a", "ip", "route", "del", inner)
        await sealed.hosts["a"].repair()
        await sealed.hosts["a"].repair()
        async with asyncio.timeout(15):
            while not await reaches(one):
                await sealed.hosts["a"].repair()


@pytest.mark.parametrize(
    "damage",
    [
        "ip link delete {device}",
        "ip route flush dev {device}",
        "ip address flush dev {device}",
        "ip link set {device} down",
        "kill",
    ],
)
async def test_damage_is_repaired(sealed: Sealed, damage: str) -> None:
    one, far = await pair(sealed)
    before = sealed.keys("a")
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
        if damage == "kill":
            programs = userspace_programs(f"{PREFIX}a")
            if not programs:
                pytest.skip("this kernel has WireGuard itself: there is no program to kill")
            for pid in programs:
                os.kill(pid, signal.SIGKILL)
        else:
            in_host("a", *damage.format(device=device("a")).split())
        await until(lambda: reaches(one), within=8)
    assert sealed.keys("a") == before


async def test_connections_outlive_the_agent(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    path = Path(f"/proc/{os.getpid()}/fd") / str(os.open(one.netns_path, os.O_RDONLY))
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
        connection = await connect(one.netns_path, "10.50.0.11", 80)
        keys = sealed.keys("a")
        await sealed.close("a")
        assert await connection.echo()
        await sealed.open("a")
        await sealed.hosts["a"].set_networks(sealed.managers.told("a"))
        await sealed.hosts["a"].adopt([one])
        assert sealed.keys("a") == keys
        assert await connection.echo()
        assert (await ask(path, "10.50.0.11", 80))[0] == "far"
        await connection.close()
    os.close(int(path.name))


async def test_a_new_key_costs_no_connection(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
        connection = await connect(one.netns_path, "10.50.0.11", 80)
        old = sealed.keys("b")
        sealed.clocks["b"].ahead = timedelta(seconds=ROTATE_SECONDS + 60)
        await sealed.hosts["b"].repair()
        assert len(sealed.keys("b")) == 2

        async def changed() -> bool:
            assert await connection.echo()
            return len(sealed.keys("b")) == 1

        await until(changed, within=20)
        assert not sealed.keys("b") & old
        assert await connection.echo()
        assert await reaches(one)
        await connection.close()


async def test_a_taken_port_keeps_the_old_key(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
        old = sealed.keys("b")
        with inside(namespace("b"), _port_51821):
            sealed.clocks["b"].ahead = timedelta(seconds=ROTATE_SECONDS + 60)
            await sealed.hosts["b"].repair()
            assert sealed.keys("b") == old
            assert await reaches(one)
        await sealed.hosts["b"].repair()
        assert len(sealed.keys("b")) == 2


async def test_it_goes_with_the_last_container(sealed: Sealed) -> None:
    one, far = await pair(sealed)
    async with serving(far.netns_path, "far"):
        await until(lambda: reaches(one))
    await sealed.managers.end("one", "a")
    assert sealed.keys("a") == set()
    assert device("a") not in in_host("a", "ip", "link")
    assert userspace_programs(f"{PREFIX}a") == set()
    assert sealed.keys("b")


async def test_a_task_waits_until_there_can_be_a_tunnel(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wg = which("wg")
    assert wg is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        Unavailable, match=r"network secret is encrypted: .* need the program wg"
    ):
        await sealed.managers.run("one", "a", 10, "secret")
    (tmp_path / "wg").symlink_to(wg)
    in_kernel = _kernel_has_wireguard()
    if not in_kernel:
        with pytest.raises(Unavailable, match="which this host's kernel has not"):
            await sealed.managers.run("one", "a", 10, "secret")
        (tmp_path / "wireguard-go").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "wireguard-go").chmod(0o755)
        with pytest.raises(Unavailable, match="is /dev/net/tun there"):
            await sealed.managers.run("one", "a", 10, "secret")
    monkeypatch.undo()
    with (
        inside(namespace("a"), _port_51820),
        pytest.raises(Unavailable, match="UDP port 51820, which another program has"),
    ):
        await sealed.managers.run("one", "a", 10, "secret")
    assert sealed.keys("a") == set()
    await sealed.managers.run("red", "a", 20, "red")  # others are not held up
    await sealed.managers.run("one", "a", 10, "secret")
    assert sealed.keys("a")


def _kernel_has_wireguard() -> bool:
    try:
        in_host("c", "ip", "link", "add", f"{PREFIX}try", "type", "wireguard")
    except Exception:  # noqa: BLE001 - whatever it says, it has none
        return False
    in_host("c", "ip", "link", "delete", f"{PREFIX}try")
    return True


def _bound(port: int) -> socket.socket:
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", port))
    return made


def _listener() -> socket.socket:
    return _bound(5555)


def _port_51820() -> socket.socket:
    return _bound(51820)


def _port_51821() -> socket.socket:
    return _bound(51821)


async def _heard(listener: socket.socket) -> bytes:
    try:
        async with asyncio.timeout(0.5):
            return await asyncio.get_running_loop().sock_recv(listener, 100)
    except TimeoutError:
        return b""


def _vxlan(vni: int, number: int) -> bytes:
    """A datagram of some network that delivers `forged` to a task."""
    data = b"forged"
    udp = b"\x15\xb3\x15\xb3" + (8 + len(data)).to_bytes(2, "big") + b"\0\0" + data
    ip = bytearray(b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0")
    ip += socket.inet_aton("10.50.0.99") + socket.inet_aton(f"10.50.0.{number}")
    total = sum(int.from_bytes(ip[at : at + 2], "big") for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    frame = bytes.fromhex(f"02420a3200{number:02x}") + bytes.fromhex("0242ffffffff0800")
    return b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + frame + ip + udp
