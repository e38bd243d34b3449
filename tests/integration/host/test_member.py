"""Members of real etcds under real host processes: create, join, crash, remove, recover."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from manager.member import Member, Membership, PeerTLS
from manager.store.etcd import EtcdKV, connect, unix_target
from manager.store.kv import Put
from shoal.common.clock import SystemClock
from shoal.common.host_control import Pids, Reply
from shoal.model.errors import AlreadyExists, FailedPrecondition, Unavailable
from shoal.model.ids import ClusterID, NodeID
from tests.integration.host.running import RunningHost, gone, host

pytestmark = pytest.mark.root


class AskedHost:
    """The `EtcdHost` of a running host, by way of its agent."""

    def __init__(self, running: RunningHost) -> None:
        self._running = running

    async def start_etcd(
        self, argv: Sequence[str], env: dict[str, str] | None = None, once: Sequence[str] = ()
    ) -> Reply:
        order: dict[str, object] = {"start_etcd": list(argv), "env": env, "once": list(once)}
        return await self._ask(order)

    async def stop_etcd(self, *, purge_state: bool) -> Reply:
        return await self._ask({"stop_etcd": purge_state})

    async def status(self) -> Reply:
        return await self._ask({})

    async def _ask(self, order: dict[str, object]) -> Reply:
        answer = await asyncio.to_thread(self._running.ask, "agent", order)
        assert "error" not in answer, answer
        agent, manager, etcd = answer["pids"]
        pids = Pids(self._running.process.pid, agent, manager, etcd)
        return Reply(number=0, pids=pids, etcd_argv=tuple(answer["argv"]))


class Node:
    """One host, its member and a client of it."""

    def __init__(self, running: RunningHost, kv: EtcdKV, member: Member) -> None:
        self.running = running
        self.kv = kv
        self.member = member
        self.group = Membership(kv, SystemClock())
        self.said: list[str] = []

    async def join(self, at: "Node") -> None:
        await self.member.join(at.group, self.said.append)


class Lab:
    """Hosts on 127.0.0.x, one etcd CA."""

    def __init__(self, directory: Path, hosts: ExitStack, clients: AsyncExitStack) -> None:
        self._directory = directory
        self._hosts = hosts
        self._clients = clients

    async def node(self, number: int, **settings: object) -> Node:
        address = f"127.0.0.{100 + number}"
        place = self._directory / f"h{number}"
        settings = {"address": address, "etcd_port": 21484, **settings}
        running = self._hosts.enter_context(host(place, **settings))
        tls = self._certificate(number, address)
        kv = await self._clients.enter_async_context(connect(unix_target(place / "state/etcd")))
        member = Member(
            running.config,
            NodeID(f"node{number}"),
            ClusterID("lab"),
            tls,
            AskedHost(running),
            kv,
        )
        return Node(running, kv, member)

    def _certificate(self, number: int, address: str) -> PeerTLS:
        key, cert = self._directory / f"{number}.key", self._directory / f"{number}.crt"
        _openssl(
            f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            f"-subj /CN=node{number} -addext subjectAltName=IP:{address} "
            f"-addext basicConstraints=critical,CA:FALSE "
            f"-CA {self._directory}/ca.crt -CAkey {self._directory}/ca.key "
            f"-keyout {key} -out {cert}"
        )
        return PeerTLS(str(cert), str(key), f"{self._directory}/ca.crt")


def _openssl(command: str) -> None:
    subprocess.run(["openssl", *command.split()], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@asynccontextmanager
async def lab(directory: Path, hosts: ExitStack) -> AsyncIterator[Lab]:
    _openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        f"-subj /CN=etcd-ca -keyout {directory}/ca.key -out {directory}/ca.crt"
    )
    async with AsyncExitStack() as clients:
        yield Lab(directory, hosts, clients)


async def remove(at: Node, member: int, reachable: set[str]) -> None:
    """Ask until etcd has seen the group connected for long enough."""
    while True:
        try:
            return await at.group.remove(member, reachable)
        except Unavailable as error:
            await asyncio.sleep(error.retry_after or 0.1)


async def write(node: Node, key: bytes, value: bytes) -> None:
    assert (await node.kv.txn((), (Put(key, value),))).succeeded


async def read(node: Node, key: bytes) -> bytes:
    return (await node.kv.range(key)).kvs[0].value


async def test_three_join_two_of_them_at_once_and_one_is_killed(
    tmp_path: Path, hosts: ExitStack
) -> None:
    async with lab(tmp_path, hosts) as made, asyncio.timeout(90):
        one, two, three = [await made.node(number) for number in (1, 2, 3)]
        await one.member.create()
        await write(one, b"k", b"1")
        async with asyncio.TaskGroup() as group:
            group.create_task(two.join(one))
            group.create_task(three.join(one))
        members = await one.kv.member_list()
        assert sorted(m.name for m in members) == ["node1", "node2", "node3"]
        assert not any(m.is_learner for m in members)
        assert any("one joins at a time" in line for line in two.said + three.said)
        assert await read(three, b"k") == b"1"

        etcd = two.running.wait_pid("etcd")
        os.kill(etcd, signal.SIGKILL)
        await asyncio.to_thread(two.running.wait_pid, "etcd", etcd)
        await two.member.start()
        await write(one, b"k", b"2")
        assert await read(two, b"k") == b"2"

        with pytest.raises(AlreadyExists, match="is a member at"):
            await one.group.add_learner("node3", "https://127.0.0.103:21484")
        third = await one.group.find(NodeID("node3"))
        with pytest.raises(FailedPrecondition, match="leaves 1 managers out of 3"):
            await one.group.remove(third.id, {"node1"})
        await remove(one, third.id, {"node1", "node2"})
        await three.member.stop(purge_state=True)
        assert not three.member.has_data
        await three.join(two)
        assert await read(three, b"k") == b"2"


async def test_a_lost_quorum_is_recovered_and_joined_again(
    tmp_path: Path, hosts: ExitStack
) -> None:
    async with lab(tmp_path, hosts) as made, asyncio.timeout(60):
        one, two = [await made.node(number) for number in (1, 2)]
        await one.member.create()
        await two.join(one)
        await write(two, b"k", b"1")
        await two.member.stop(purge_state=False)
        await one.member.recover()
        assert [m.name for m in await one.kv.member_list()] == ["node1"]
        assert await read(one, b"k") == b"1"
        etcd = one.running.wait_pid("etcd")
        assert "--force-new-cluster" in command_line(etcd)
        await two.join(one)
        await one.member.defragment()
        assert await read(two, b"k") == b"1"


async def test_a_restarted_manager_finds_its_member_running(
    tmp_path: Path, hosts: ExitStack
) -> None:
    async with lab(tmp_path, hosts) as made, asyncio.timeout(60):
        one = await made.node(1)
        with pytest.raises(FailedPrecondition, match="holds no data"):
            await one.member.start()
        await one.member.create()
        etcd = one.running.wait_pid("etcd")
        assert {"GOGC=50", "GOMAXPROCS=1"} <= {*environment(etcd)}
        await one.member.start()
        assert one.running.wait_pid("etcd") == etcd
        await one.member.stop(purge_state=False)
        assert gone(etcd, 0)
        with pytest.raises(FailedPrecondition, match="an earlier cluster"):
            await one.member.create()
        await one.member.start()
        with pytest.raises(FailedPrecondition, match="the last manager"):
            await one.group.remove((await one.kv.status()).member, {"node1"})


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
