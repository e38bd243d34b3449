"""Published ports on three hosts, asked by an outside client: IPv4 and IPv6, real kernel."""

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from msgspec.structs import replace

from agent.network.desired import Backend, Endpoint, IngressPort, PortBinding, Protocol
from agent.network.nft import Nft
from shoal.model.errors import FailedPrecondition, Internal
from tests.integration.network.lab import (
    ADDRESSES,
    ADDRESSES6,
    ON_BRIDGE,
    ON_MESH,
    OUTSIDE,
    SUBNETS,
    Networks,
    ask,
    connect,
    cut_off,
    eventually,
    flows,
    in_host,
    ingress,
    inside,
    mesh,
    namespace,
    network,
    running,
    serving,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
]

_log = structlog.get_logger(__name__)
BOTH = (ADDRESSES, ADDRESSES6)


def has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


async def publish(networks: Networks, *entries: IngressPort) -> None:
    for each in networks.values():
        await each.set_ingress(entries)
        assert each.taken_ports == ()


@pytest.mark.parametrize("addresses", BOTH, ids=["IPv4", "IPv6"])
async def test_own_tasks_come_first_and_see_the_client(
    networks: Networks, addresses: dict[str, str]
) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    await publish(networks, ingress(8080, one, two))
    async with serving(one.netns_path, "one"), serving(two.netns_path, "two"):
        for host, server in (("a", "one"), ("b", "two")):
            for _ in range(10):
                answer = await ask(namespace(OUTSIDE), addresses[host], 8080)
                assert answer == (server, addresses[OUTSIDE])
        far = [await ask(namespace(OUTSIDE), addresses["c"], 8080) for _ in range(30)]
        assert {server for server, _ in far} == {"one", "two"}
        for host, target in (("a", "a"), ("c", "c"), ("b", "c")):
            await ask(namespace(host), addresses[target], 8080)
        for task, target in ((one, "a"), (two, "b"), (one, "c")):  # also a task itself
            await ask(task.netns_path, addresses[target], 8080)


@pytest.mark.parametrize("addresses", BOTH, ids=["IPv4", "IPv6"])
async def test_local_only_never_forwards(networks: Networks, addresses: dict[str, str]) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    await publish(networks, replace(ingress(8080, one), local_only=True))
    async with serving(one.netns_path, "one"):
        answer = await ask(namespace(OUTSIDE), addresses["a"], 8080)
        assert answer == ("one", addresses[OUTSIDE])
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace(OUTSIDE), addresses["b"], 8080)


@pytest.mark.parametrize("addresses", BOTH, ids=["IPv4", "IPv6"])
async def test_host_mode_ports(networks: Networks, addresses: dict[str, str]) -> None:
    bindings = [
        PortBinding(container_port=80, host_port=8080),
        PortBinding(container_port=80, host_port=8081, host_ip=addresses["a"]),
        PortBinding(container_port=80),
    ]
    one = await networks["a"].attach("one", ON_MESH, bindings)
    async with serving(one.netns_path, "one"):
        for binding in one.ports:
            answer = await ask(namespace(OUTSIDE), addresses["a"], binding.host_port)
            assert answer == ("one", addresses[OUTSIDE])
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace(OUTSIDE), addresses["b"], 8080)


async def test_one_port_of_a_range_is_taken(networks: Networks) -> None:
    asked = PortBinding(container_port=80, host_port=8080, last_host_port=8082)
    one = await networks["a"].attach("one", ON_MESH, [asked])
    assert one.ports == (PortBinding(container_port=80, host_port=8080),)
    async with serving(namespace("a"), "foreign", 8081), serving(one.netns_path, "one"):
        two = await networks["a"].attach("two", ON_MESH, [asked])
        assert [each.host_port for each in two.ports] == [8082]
        sentence = "Bind for 0.0.0.0:8080-8082 failed: all ports are allocated"
        with pytest.raises(FailedPrecondition, match=sentence):
            await networks["a"].attach("three", ON_MESH, [asked])
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080))[0] == "one"
    await networks["a"].detach("one")
    three = await networks["a"].attach("three", ON_MESH, [asked])
    assert [each.host_port for each in three.ports] == [8080]


@pytest.mark.parametrize("family", [4, 6])
async def test_nothing_else_is_open(networks: Networks, family: int) -> None:
    """Also to somebody with a route to the tasks."""
    one = await networks["a"].attach("one", ON_MESH)
    await publish(networks, ingress(8080, one))
    target = one.outward.ipv4 if family == 4 else one.outward.ipv6
    via = (ADDRESSES if family == 4 else ADDRESSES6)["a"]
    route = ["ip", f"-{family}", "route"]
    in_host(OUTSIDE, *route, "add", target, "via", via)
    try:
        async with serving(one.netns_path, "one"), serving(one.netns_path, "other", 81):
            for port in (80, 81):
                with pytest.raises(TimeoutError):
                    await ask(namespace(OUTSIDE), target, port, within=0.5)
    finally:
        in_host(OUTSIDE, *route, "del", target)


async def test_datagrams_reach_what_no_rule_leads_to(networks: Networks) -> None:
    """`[::1]`, and IPv6 to a container that has only IPv4."""
    one = await networks["a"].attach(
        "one",
        ON_MESH,
        [PortBinding(protocol="udp", container_port=80, host_port=9090, host_ip="::1")],
    )
    old = await networks["a"].attach(
        "old",
        ON_BRIDGE,
        [
            PortBinding(protocol="udp", container_port=80, host_port=7070),
            PortBinding(
                protocol="udp", container_port=80, host_port=7171, host_ip=ADDRESSES6["a"]
            ),
            PortBinding(protocol="udp", container_port=80, host_port=7272, host_ip="::"),
        ],
    )
    await publish(networks, replace(ingress(5353, one), protocol="udp"))
    with telling(one, "one"), telling(old, "old"):
        async with running(networks["a"]), running(networks["b"]):
            for client, address, port, name in (
                ("a", "::1", 5353, "one"),
                ("b", "::1", 5353, "one"),
                ("b", "127.0.0.1", 5353, "one"),
                ("a", "::1", 9090, "one"),
                ("a", "::1", 7070, "old"),
                (OUTSIDE, ADDRESSES6["a"], 7070, "old"),
                (OUTSIDE, ADDRESSES6["a"], 7171, "old"),
                (OUTSIDE, ADDRESSES6["a"], 7272, "old"),
                ("a", "::1", 7272, "old"),
            ):
                with _datagrams(client, address, port) as asking:
                    for _ in range(3):
                        assert await _told(asking) == name, f"[{address}]:{port} from {client}"
            with _datagrams("a", "::1", 7171) as asking, pytest.raises(ConnectionRefusedError):
                await _told(asking)  # published on another address only
            with _datagrams("a", "::1", 5353) as asking:
                two = await networks["b"].attach("two", ON_MESH)
                with telling(two, "two"):
                    assert await _told(asking) == "one"
                    entry = replace(ingress(5353, two), protocol="udp")
                    await networks["a"].set_ingress([entry])
                    assert await _told(asking) == "two"  # the same flow
                    await networks["a"].set_ingress([])
                    with pytest.raises(ConnectionRefusedError):
                        await _told(asking)


async def test_connections_by_ipv6_to_a_container_with_ipv4_only(networks: Networks) -> None:
    """Also where the port is published on IPv6 addresses alone."""
    bindings = [
        PortBinding(container_port=80, host_port=7171, host_ip=ADDRESSES6["a"]),
        PortBinding(container_port=80, host_port=7272, host_ip="::"),
    ]
    old = await networks["a"].attach("old", ON_BRIDGE, bindings)
    async with serving(old.netns_path, "old"), running(networks["a"]):
        for client, address, port in (
            (OUTSIDE, ADDRESSES6["a"], 7171),
            (OUTSIDE, ADDRESSES6["a"], 7272),
            ("a", "::1", 7272),
        ):
            assert (await ask(namespace(client), address, port))[0] == "old"
        for address in ("::1", ADDRESSES["a"]):
            with pytest.raises(ConnectionRefusedError):
                await ask(namespace("a"), address, 7171)


@pytest.mark.skipif(not has_sctp(), reason="this kernel has no SCTP")
async def test_sctp_by_the_hosts_own_loopback(networks: Networks) -> None:
    one = await networks["b"].attach("one", ON_MESH)
    await publish(networks, replace(ingress(5060, one), protocol="sctp"))

    def listener() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        made.bind(("::", 80))
        made.listen()
        return made

    def client(family: int) -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)

    loop = asyncio.get_running_loop()
    async with running(networks["a"]):
        with inside(one.netns_path, listener) as server:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with inside(namespace("a"), functools.partial(client, family)) as asking:
                    async with asyncio.timeout(3):
                        await loop.sock_connect(asking, (address, 5060))
                        accepted, _ = await loop.sock_accept(server)
                        with accepted:
                            await loop.sock_sendall(accepted, b"one")
                            assert await loop.sock_recv(asking, 100) == b"one"


@pytest.mark.parametrize("addresses", BOTH, ids=["IPv4", "IPv6"])
async def test_datagrams_go_to_the_new_backend_at_once(
    networks: Networks, addresses: dict[str, str]
) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    with (
        telling(one, "one"),
        telling(two, "two"),
        _datagrams(OUTSIDE, addresses["c"], 5353) as client,
    ):
        for endpoint, name in ((one, "one"), (two, "two"), (one, "one")):
            entry = replace(ingress(5353, endpoint), protocol="udp")
            await networks["c"].set_ingress([entry])
            for _ in range(3):
                assert await _told(client) == name  # from the same port: one flow


async def test_the_hosts_own_loopback_of_both_families(networks: Networks) -> None:
    one = await networks["a"].attach(
        "one",
        ON_MESH,
        [PortBinding(container_port=80, host_port=9090, host_ip="::1")],
    )
    old = await networks["a"].attach(
        "old", ON_BRIDGE, [PortBinding(container_port=80, host_port=7070)]
    )
    await publish(networks, ingress(8080, one))
    async with (
        serving(one.netns_path, "one"),
        serving(old.netns_path, "old"),
        running(networks["a"]),
        running(networks["b"]),
    ):
        for host in ("a", "b"):
            for loopback in ("127.0.0.1", "::1"):
                assert (await ask(namespace(host), loopback, 8080))[0] == "one"
        assert (await ask(namespace("a"), "::1", 9090))[0] == "one"
        # an IPv4 container is reached by IPv6 too
        for address in ("::1", ADDRESSES6["a"]):
            assert (await ask(namespace("a"), address, 7070))[0] == "old"
        assert (await ask(namespace(OUTSIDE), ADDRESSES6["a"], 7070))[0] == "old"
        for host, address in ((OUTSIDE, ADDRESSES6["a"]), ("a", "127.0.0.1")):
            with pytest.raises(ConnectionRefusedError):
                await ask(namespace(host), address, 9090)
        kept = await connect(namespace("a"), "::1", 8080)
        await networks["a"].set_ingress([ingress(8080)])
        assert await kept.echo()
        await kept.close()
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace("a"), "::1", 8080)
        await networks["a"].set_ingress([])
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace("a"), "::1", 8080)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_taken_port_is_said_by_name_and_taken_when_it_is_free(
    networks: Networks, protocol: Protocol
) -> None:
    host, news = networks["a"], asyncio.Event()
    host.report_changed = news.set
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]

    def foreign() -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        made.bind(("0.0.0.0", 8080))
        if protocol == "tcp":
            made.listen()
        return made

    one = await networks["b"].attach("one", ON_MESH)
    async with running(host), serving(one.netns_path, "one"):
        with inside(namespace("a"), foreign):
            await host.set_ingress([replace(ingress(8080, one), protocol=protocol)])
            (taken,) = host.taken_ports
            assert (taken.protocol, taken.port) == (protocol, 8080)
            assert taken.reason.endswith(f"port is already allocated, by {own_name()}")
            assert news.is_set()
            news.clear()
            assert "8080" not in await host.rules()
        async with asyncio.timeout(5):  # the compare would take up to 10 s
            await news.wait()
        assert host.taken_ports == ()
        assert "8080" in await host.rules()


async def test_who_has_a_taken_port_keeps_it(networks: Networks) -> None:
    one = await networks["b"].attach("one", ON_MESH)
    async with serving(one.netns_path, "one"):
        async with serving(namespace("a"), "foreign", 8080):
            await networks["a"].set_ingress([ingress(8080, one)])
            for address in (ADDRESSES["a"], ADDRESSES6["a"]):
                assert (await ask(namespace(OUTSIDE), address, 8080))[0] == "foreign"
        await networks["a"].repair()
        for address in (ADDRESSES["a"], ADDRESSES6["a"]):
            assert (await ask(namespace(OUTSIDE), address, 8080))[0] == "one"


def own_name() -> str:
    return f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


@contextlib.contextmanager
def telling(endpoint: Endpoint, name: str) -> Iterator[None]:
    """A UDP server of both families that tells its name."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", 80))
        return made

    def tell() -> None:
        _, client = server.recvfrom(100)
        server.sendto(name.encode(), client)

    loop = asyncio.get_running_loop()
    with inside(endpoint.netns_path, make) as server:
        loop.add_reader(server, tell)
        try:
            yield
        finally:
            loop.remove_reader(server)


def _datagrams(host: str, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = inside(namespace(host), lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.connect((address, port))
    return made


async def _told(client: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"who")
    async with asyncio.timeout(3):
        return (await loop.sock_recv(client, 100)).decode()


async def test_a_connection_to_a_lost_host_goes_on_to_another(networks: Networks) -> None:
    lost = await networks["a"].attach("lost", ON_MESH)
    one = await networks["b"].attach("one", ON_MESH)
    published = networks["c"]
    await published.set_ingress([ingress(8080, lost)])
    for address in (ADDRESSES["c"], ADDRESSES6["c"]):
        async with serving(one.netns_path, "one"), asyncio.TaskGroup() as group:
            with cut_off("a"):
                asking = group.create_task(ask(namespace(OUTSIDE), address, 8080))
                await eventually(lambda: "SYN_SENT" in flows("c"))
                await published.set_ingress([ingress(8080, one)])
                assert (await asking)[0] == "one"
        await published.set_ingress([ingress(8080, lost)])


async def test_a_kernel_without_connection_timeouts_publishes_all_the_same(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Nft.apply

    def refuse(nft: Nft, text: str) -> None:
        if "ct timeout" in text:
            raise Internal("nftables refused a change: Operation not supported")
        apply(nft, text)

    one = await networks["b"].attach("one", ON_MESH)
    with monkeypatch.context() as kernel:
        kernel.setattr(Nft, "apply", refuse)
        in_host("a", "nft", "delete", "table", "inet", "shoal_ta")
        await networks["a"].set_ingress([ingress(8080, one)])
    rules = in_host("a", "nft", "list", "table", "inet", "shoal_ta")
    assert "half_open" not in rules
    async with serving(one.netns_path, "one"):
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080))[0] == "one"


async def test_load_loses_nothing_while_backends_change_and_agents_die(
    networks: Networks,
) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    both = [ingress(8080, one, two), ingress(9090, two)]
    await publish(networks, *both)
    asked = 0
    done = asyncio.Event()

    async def load(addresses: dict[str, str]) -> None:
        nonlocal asked
        while not done.is_set():
            for host in SUBNETS:
                await ask(namespace(OUTSIDE), addresses[host], 8080)
                asked += 1

    async def change() -> None:
        for _ in range(3):
            for entries in ([ingress(8080, one)], [ingress(8080, two)], both):
                await publish(networks, *entries)
                await asyncio.sleep(0.05)
            # no word of `stop`: an agent that was killed leaves its table as it is
            old, networks["a"] = networks["a"], network("a")
            await old.stop()
            await networks["a"].start()
            await networks["a"].set_mesh(mesh("a"))
            await networks["a"].set_ingress(both)
            await networks["a"].adopt([one])
        done.set()

    async with serving(one.netns_path, "one"), serving(two.netns_path, "two"):
        kept = await connect(namespace(OUTSIDE), ADDRESSES["a"], 8080)
        async with asyncio.TaskGroup() as group:
            for addresses in BOTH:
                group.create_task(load(addresses))
            group.create_task(change())
        assert await kept.echo()
        await kept.close()
    assert asked > 100
    _log.info("load", requests=asked)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
async def test_one_change_among_five_hundred_ports(
    networks: Networks, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules of all protocols load, and a change says to the kernel what changed, no more."""
    said: list[int] = []
    apply = Nft.apply

    def heard(nft: Nft, text: str) -> None:
        said.append(len(text))
        apply(nft, text)

    monkeypatch.setattr(Nft, "apply", heard)

    async def changed(ports: int) -> list[int]:
        """How long the words of some changes are."""

        def entries(turn: int) -> list[IngressPort]:
            """Of the first port another backend each turn."""
            return [
                IngressPort(
                    protocol=protocol,
                    published_port=10000 + number,
                    backends=tuple(
                        Backend(
                            address=f"10.98.2.{2 + (host + turn * (not number)) % 50}", port=80
                        )
                        for host in range(5)
                    ),
                )
                for number in range(ports)
            ]

        await networks["a"].set_ingress(entries(0))
        said.clear()
        for turn in range(1, 20):
            await networks["a"].set_ingress(entries(turn))
        return said.copy()

    few, many = await changed(10), await changed(500)
    assert few == many
    assert len(few) == 19
    rules = await networks["a"].rules()
    assert rules.count(f"{protocol} . 10499 : 10.98.2.") == 5
