"""Names and virtual IPs in real namespaces: answers, forwarding, restart, repair."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import dnslib
import pytest

from agent.network.container_names import AS_HOST, ContainerNames, Resolving
from agent.network.views import NetworkView, local_view
from agent.network.zones import Host
from shoal.model.errors import AlreadyExists
from tests.integration.host.running import host
from tests.integration.network.lab import eventually, inside
from tests.integration.network.lan import address, ask, lan, path, rules, run, serving, talk

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VIP = "10.97.1.1"
HOST_SERVER = f"127.77.{os.getpid() % 250}.{os.getpid() // 250 % 250 + 1}"
RESOLVER = ("127.0.0.11", 53)


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    with lan():
        yield


class Keeper:
    """Keeps copies, as the host process does."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    async def keep_descriptor(self, name: str, descriptor: int) -> None:
        await self.drop_descriptor(name)
        self.kept[name] = os.dup(descriptor)

    async def drop_descriptor(self, name: str) -> None:
        if (kept := self.kept.pop(name, None)) is not None:
            os.close(kept)

    def copies(self) -> dict[str, int]:
        return {name: os.dup(descriptor) for name, descriptor in self.kept.items()}


class Running:
    """A `ContainerNames` that runs in this test."""

    def __init__(self, keeper: Keeper, *servers: str) -> None:
        self.keeper = keeper
        chance = random.Random(1)
        self.names = ContainerNames(keeper, keeper.copies(), chance, lambda: servers)

    async def open(self, name: str, *networks: str, resolving: Resolving = AS_HOST) -> None:
        descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self.names.open(name, descriptor, networks, resolving)
        finally:
            os.close(descriptor)


@contextlib.asynccontextmanager
async def running(keeper: Keeper, *servers: str) -> AsyncIterator[Running]:
    made = Running(keeper, *servers)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.names.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.wait([task])
            await made.names.stop()


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    made = Keeper()
    yield made
    for name in list(made.kept):
        await made.drop_descriptor(name)
    run("client", "nft", "flush", "ruleset")


def view(*names: str) -> NetworkView:
    hosts = [Host(names=(name,), addresses=(address(name),)) for name in names]
    found = local_view("mine", hosts, ["10.97.0.0/16"])
    return NetworkView(zone=found.zone, virtual_ips={VIP: tuple(address(n) for n in names)})


async def resolve(
    question: str, kind: str = "A", *, container: str = "client", within: float = 5
) -> dnslib.DNSRecord:
    query = bytes(dnslib.DNSRecord.question(question, kind).pack())
    loop = asyncio.get_running_loop()
    with inside(path(container), lambda: socket.socket(type=socket.SOCK_DGRAM)) as made:
        made.connect(RESOLVER)
        await loop.sock_sendall(made, query)
        async with asyncio.timeout(within):
            return dnslib.DNSRecord.parse(await loop.sock_recv(made, 4096))


async def resolve_by_tcp(question: str) -> dnslib.DNSRecord:
    query = bytes(dnslib.DNSRecord.question(question).pack())
    made = inside(path("client"), socket.socket)
    await asyncio.get_running_loop().sock_connect(made, RESOLVER)
    reader, writer = await asyncio.open_connection(sock=made)
    answer = b""
    async with asyncio.timeout(5):
        for _ in range(2):  # a connection takes several
            writer.write(len(query).to_bytes(2) + query)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    writer.close()
    await writer.wait_closed()
    return dnslib.DNSRecord.parse(answer)


def found(record: dnslib.DNSRecord) -> list[str]:
    return [str(rr.rdata) for rr in record.rr]


async def test_names_and_virtual_ips_follow_the_networks(keeper: Keeper) -> None:
    async with running(keeper) as made, serving("one", "two"):
        assert await made.names.change("cluster", {"n": view("one")}) == []
        await made.open("client", "n")
        assert found(await resolve("ONE")) == [address("one")]
        assert found(await resolve_by_tcp("one.mine")) == [address("one")]
        assert await ask("client", VIP) == "one"
        assert (await resolve("two")).header.rcode == dnslib.RCODE.SERVFAIL
        assert await made.names.change("cluster", {"n": view("two")}) == []
        assert found(await resolve("two")) == [address("two")]
        assert await ask("client", VIP) == "two"
        await made.names.set_networks("client", [])
        assert VIP not in rules("client")
        assert (await resolve("two")).header.rcode == dnslib.RCODE.SERVFAIL
        with pytest.raises(AlreadyExists):
            await made.open("client", "n")
        await made.names.close("client")
        await made.names.close("client")
        assert keeper.kept == {}


async def test_sources_are_replaced_apart(keeper: Keeper) -> None:
    async with running(keeper) as made:
        await made.names.change("cluster", {"a": view("one")})
        await made.names.change("local", {"b": view("two")})
        await made.open("client", "a", "b")
        await made.names.change("cluster", {})
        assert found(await resolve("two")) == [address("two")]
        assert (await resolve("one")).header.rcode == dnslib.RCODE.SERVFAIL
        await made.names.close("client")


async def test_a_deleted_table_is_back_within_two_seconds(keeper: Keeper) -> None:
    async with running(keeper) as made, serving("one"):
        await made.names.change("cluster", {"n": view("one")})
        await made.open("client", "n")
        old = await talk("client", VIP)
        before = rules("client")
        run("client", "nft", "flush", "ruleset")
        await eventually(lambda: rules("client") == before, within=2)
        assert await ask("client", VIP) == "one"
        await old.close()
        await made.names.close("client")


async def test_a_restart_takes_over_sockets_and_rules(keeper: Keeper) -> None:
    async with running(keeper) as made:
        await made.names.change("cluster", {"n": view("one")})
        await made.open("client", "n")
        await made.open("three", "n")
    before = rules("client")
    async with serving("one"), asyncio.TaskGroup() as group:
        old = await talk("client", VIP)
        asked = group.create_task(resolve("one"))  # nobody reads now
        async with running(keeper) as made:
            await made.open("client", "n")
            await asyncio.sleep(0)
            assert not asked.done()
            assert rules("client") == before  # its networks are not known yet
            await made.names.change("cluster", {"n": view("one")})
            await made.names.settle()
            assert found(await asked) == [address("one")]
            assert await old.echo()
            assert all("client" in name for name in keeper.kept)
            await old.close()
            await made.names.close("client")


async def test_a_port_that_is_taken_is_tried_again(keeper: Keeper) -> None:
    def taken() -> socket.socket:
        thief = socket.socket(type=socket.SOCK_DGRAM)
        thief.bind(RESOLVER)
        return thief

    async with running(keeper) as made:
        await made.names.change("cluster", {"n": view("one")})
        with inside(path("client"), taken):
            await made.open("client", "n")
        assert VIP in rules("client")
        await eventually(lambda: bool(keeper.kept))
        assert found(await resolve("one")) == [address("one")]
        await made.names.close("client")


class Server:
    """A name server of the world: knows some names, TCP where an answer is too long."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, raw: bytes, *, by_tcp: bool) -> bytes:
        query = dnslib.DNSRecord.parse(raw)
        name = str(query.q.qname).rstrip(".")
        self.asked.append(name)
        reply = query.reply()
        if name == "absent.example":
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        elif name == "broken.example":
            reply.header.rcode = dnslib.RCODE.SERVFAIL
        elif name == "long.example" and not by_tcp:
            reply.header.tc = 1
        else:
            reply.add_answer(*dnslib.RR.fromZone(f"{name} 60 A 192.0.2.7"))
        return bytes(reply.pack())


@contextlib.asynccontextmanager
async def name_server(
    where: str, make: Callable[[Callable[[], socket.socket]], socket.socket]
) -> AsyncIterator[Server]:
    made = Server()
    loop = asyncio.get_running_loop()

    def bound(kind: int) -> socket.socket:
        new = socket.socket(type=kind)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        new.bind((where, 53))
        new.setblocking(False)
        return new

    def read() -> None:
        raw, sender = datagrams.recvfrom(4096)
        datagrams.sendto(made.answer(raw, by_tcp=False), sender)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        reply = made.answer(raw, by_tcp=True)
        writer.write(len(reply).to_bytes(2) + reply)
        writer.close()

    with make(lambda: bound(socket.SOCK_DGRAM)) as datagrams:
        loop.add_reader(datagrams, read)
        listener = make(lambda: bound(socket.SOCK_STREAM))
        server = await asyncio.start_server(serve, sock=listener)
        try:
            yield made
        finally:
            server.close()
            loop.remove_reader(datagrams)


async def test_what_is_not_ours_is_asked_of_the_hosts_servers(keeper: Keeper) -> None:
    async with (
        name_server(HOST_SERVER, lambda make: make()) as server,
        running(keeper, "127.77.255.254", HOST_SERVER) as made,
    ):  # nobody is at the first: refused at once
        await made.names.change("cluster", {"n": view("one")})
        await made.open("client", "n")
        assert found(await resolve("example.com")) == ["192.0.2.7"]
        assert (await resolve("absent.example")).header.rcode == dnslib.RCODE.NXDOMAIN
        assert (await resolve("broken.example")).header.rcode == dnslib.RCODE.SERVFAIL
        assert (await resolve("long.example")).header.tc == 1
        assert found(await resolve_by_tcp("long.example")) == ["192.0.2.7"]
        server.asked.clear()
        assert found(await resolve("one")) == [address("one")]
        assert found(await resolve("one", "AAAA")) == []
        assert (await resolve("9.0.97.10.in-addr.arpa", "PTR")).header.rcode == 3
        assert server.asked == []
        await made.names.close("client")


async def test_given_servers_are_asked_from_inside(keeper: Keeper) -> None:
    def in_three(make: Callable[[], socket.socket]) -> socket.socket:
        return inside(path("three"), make)

    async with (
        name_server(address("three"), in_three) as server,
        running(keeper, HOST_SERVER) as made,
    ):
        await made.names.change("cluster", {"n": view("one")})
        given = Resolving(servers=(RESOLVER[0], address("three")), external=False)
        await made.open("client", "n", resolving=given)
        assert found(await resolve("example.com")) == ["192.0.2.7"]
        assert found(await resolve_by_tcp("long.example")) == ["192.0.2.7"]
        assert server.asked
        await made.names.close("client")


async def test_internal_networks_ask_nobody(keeper: Keeper) -> None:
    async with (
        name_server(HOST_SERVER, lambda make: make()) as server,
        running(keeper, HOST_SERVER) as made,
    ):
        await made.names.change("cluster", {"n": view("one")})
        await made.open("client", "n", resolving=Resolving(external=False))
        assert (await resolve("example.com")).header.rcode == dnslib.RCODE.SERVFAIL
        assert server.asked == []
        await made.names.close("client")


async def test_an_agent_killed_delays_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_TEST_NAMESPACE", str(path("two")))
    program = "tests.integration.network.programs.names_agent"
    with host(tmp_path, program) as supervised:
        left = Path(supervised.config.run) / "left"
        await eventually(left.exists, within=10)
        assert left.read_text() == "0"
        assert found(await resolve("web", container="two")) == ["10.97.0.2"]
        for round_ in range(3):
            left.unlink()
            first = supervised.wait_pid("agent")
            os.kill(first, signal.SIGSTOP)  # so that the query meets nobody
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(resolve("web", container="two", within=10))
                await asyncio.sleep(0)
                os.kill(first, signal.SIGKILL)
                assert found(await asked) == ["10.97.0.2"], round_
            await eventually(left.exists, within=10)
            assert left.read_text() == "2"
