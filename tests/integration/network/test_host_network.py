"""Three hosts, real kernel: mesh, ingress, published ports, restart, repair, nothing left."""

import asyncio
import os
import re
import socket
from pathlib import Path

import msgspec
import pytest

from agent.network.desired import Backend, Endpoint, IngressPort, PortBinding
from shoal.model.errors import AlreadyExists, FailedPrecondition
from tests.integration.network.lab import (
    ADDRESSES,
    ON_BRIDGE,
    ON_MESH,
    OUTSIDE,
    SUBNETS,
    Networks,
    ask,
    connect,
    eventually,
    in_host,
    ingress,
    inside,
    leftovers,
    mesh,
    namespace,
    network,
    running,
    serving,
    set_bridge_filter,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
]


@pytest.mark.parametrize("filtered", ["0", "1"])
async def test_hosts_reach_tasks_and_tasks_each_other_by_published_ports_only(
    networks: Networks, filtered: str
) -> None:
    for host, each in networks.items():
        set_bridge_filter(host, filtered)
        await each.repair()
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    near = await networks["b"].attach("near", ON_MESH)
    for each in networks.values():
        await each.set_ingress([ingress(8080, two)])
    async with serving(two.netns_path, "two"):
        for address in (two.outward.ipv4, two.outward.ipv6):
            for host in SUBNETS:
                assert (await ask(namespace(host), address, 80))[0] == "two"
            for client in (one, near):
                with pytest.raises((TimeoutError, OSError)):
                    await ask(client.netns_path, address, 80, within=0.5)
        for client, host in ((one, "a"), (near, "b"), (two, "b")):
            assert (await ask(client.netns_path, ADDRESSES[host], 8080))[0] == "two"


async def test_ingress_is_open_on_every_host_from_everywhere(networks: Networks) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    person = await networks["c"].attach("person", ON_BRIDGE)
    for each in networks.values():
        await each.set_ingress([ingress(8080, one, two)])
    async with serving(one.netns_path, "one"), serving(two.netns_path, "two"):
        for host, expected in (("a", {"one"}), ("b", {"two"}), ("c", {"one", "two"})):
            address = ADDRESSES[host]
            pairs: list[tuple[Path | str, str]] = [
                (namespace(OUTSIDE), address),
                (namespace(host), address),
                (namespace(host), "127.0.0.1"),
                (one.netns_path, address),
                (person.netns_path, address),
            ]
            for client, target in pairs:
                answers = [await ask(client, target, 8080) for _ in range(20)]
                assert {server for server, _ in answers} == expected, (host, target)


async def test_client_address_is_kept_for_local_tasks_only(networks: Networks) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    for each in networks.values():
        await each.set_ingress([ingress(8080, one)])
    async with serving(one.netns_path, "one"):
        assert await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080) == (
            "one",
            ADDRESSES[OUTSIDE],
        )
        assert await ask(namespace(OUTSIDE), ADDRESSES["b"], 8080) == ("one", "10.98.2.1")


async def test_container_reaches_itself_by_ingress(networks: Networks) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    await networks["a"].set_ingress([ingress(8080, one)])
    async with serving(one.netns_path, "one"):
        assert await ask(one.netns_path, ADDRESSES["a"], 8080) == ("one", "10.98.1.1")


async def test_removed_backend_keeps_its_connections(networks: Networks) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    await networks["c"].set_ingress([ingress(8080, one)])
    async with serving(one.netns_path, "one"), serving(two.netns_path, "two"):
        old = await connect(namespace(OUTSIDE), ADDRESSES["c"], 8080)
        await networks["c"].set_ingress([ingress(8080, two)])
        assert (await ask(namespace(OUTSIDE), ADDRESSES["c"], 8080))[0] == "two"
        await networks["c"].set_ingress([ingress(8080)])
        assert await old.echo()
        await networks["c"].set_ingress([])
        assert await old.echo()
        await old.close()


async def test_ingress_without_reachable_backend_refuses(networks: Networks) -> None:
    stranger = Backend(address="10.97.0.5", port=80)
    await networks["a"].set_ingress(
        [ingress(8080), IngressPort(published_port=8081, backends=(stranger,))]
    )
    for port in (8080, 8081):
        for client, address in [
            (namespace(OUTSIDE), ADDRESSES["a"]),
            (namespace("a"), "127.0.0.1"),
        ]:
            with pytest.raises(ConnectionRefusedError):
                await ask(client, address, port)


async def test_published_ports_of_a_persons_container(networks: Networks) -> None:
    web = await networks["a"].attach(
        "web",
        ON_BRIDGE,
        [
            PortBinding(container_port=80, host_port=8080),
            PortBinding(container_port=80),
            PortBinding(container_port=80, host_port=9090, host_ip="127.0.0.1"),
        ],
    )
    random_port = web.ports[1].host_port
    assert 32768 <= random_port <= 60999
    other = await networks["a"].attach("other", ON_BRIDGE)
    async with serving(web.netns_path, "web"):
        for port in (8080, random_port):
            assert await ask(namespace(OUTSIDE), ADDRESSES["a"], port) == (
                "web",
                ADDRESSES[OUTSIDE],
            )
            assert (await ask(namespace("a"), ADDRESSES["a"], port))[0] == "web"
            assert (await ask(namespace("a"), "127.0.0.1", port))[0] == "web"
            assert (await ask(other.netns_path, ADDRESSES["a"], port))[0] == "web"
            assert (await ask(web.netns_path, ADDRESSES["a"], port))[0] == "web"
        assert (await ask(namespace("a"), "127.0.0.1", 9090))[0] == "web"
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace(OUTSIDE), ADDRESSES["a"], 9090)
        with pytest.raises(TimeoutError):
            await ask_loopback_by_gateway(other, 9090)
        await networks["a"].detach("web")
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080)


async def ask_loopback_by_gateway(client: Endpoint, port: int) -> None:
    """A container that sends packets for 127.0.0.1 to its host."""
    enter = ["nsenter", f"--net={client.netns_path}"]
    for command in (
        ["ip", "link", "set", "lo", "down"],
        ["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"],
        [
            "ip",
            "route",
            "add",
            "127.0.0.0/8",
            "via",
            client.outward.gateway,
            "src",
            client.outward.ipv4,
        ],
    ):
        process = await asyncio.create_subprocess_exec(*enter, *command)
        assert await process.wait() == 0, command
    made = inside(client.netns_path, socket.socket)
    with made:
        made.bind((client.outward.ipv4, 0))
        async with asyncio.timeout(0.5):
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))


async def test_host_mode_port_of_a_task(networks: Networks) -> None:
    task = await networks["a"].attach(
        "task", ON_MESH, [PortBinding(container_port=80, host_port=8080)]
    )
    async with serving(task.netns_path, "task"):
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080))[0] == "task"
        with pytest.raises(ConnectionRefusedError):
            await ask(namespace(OUTSIDE), ADDRESSES["b"], 8080)


async def test_udp_published(networks: Networks) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    entry = IngressPort(
        protocol="udp",
        published_port=5300,
        backends=(Backend(address=one.outward.ipv4, port=53),),
    )
    for each in networks.values():
        await each.set_ingress([entry])
    server = inside(one.netns_path, lambda: _udp(("0.0.0.0", 53)))
    loop = asyncio.get_running_loop()
    with server:
        for host in SUBNETS:
            with inside(namespace(OUTSIDE), _udp) as client:
                async with asyncio.timeout(3):
                    await loop.sock_sendto(client, b"question", (ADDRESSES[host], 5300))
                    data, sender = await loop.sock_recvfrom(server, 100)
                    assert data == b"question"
                    await loop.sock_sendto(server, b"answer", sender)
                    assert (await loop.sock_recv(client, 100)) == b"answer"


def _udp(bind: tuple[str, int] | None = None) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if bind:
        made.bind(bind)
    return made


async def test_udp_client_moves_to_the_next_backend(networks: Networks) -> None:
    tasks = [await networks["a"].attach(name, ON_MESH) for name in ("one", "two")]
    loop = asyncio.get_running_loop()
    with inside(namespace(OUTSIDE), lambda: _udp(("0.0.0.0", 4444))) as client:
        for task in tasks:
            backend = Backend(address=task.outward.ipv4, port=53)
            entry = IngressPort(protocol="udp", published_port=5300, backends=(backend,))
            await networks["a"].set_ingress([entry])
            with inside(task.netns_path, lambda: _udp(("0.0.0.0", 53))) as server:
                async with asyncio.timeout(3):
                    await loop.sock_sendto(client, b"question", (ADDRESSES["a"], 5300))
                    assert await loop.sock_recv(server, 100) == b"question"


async def test_unpublished_port_and_the_other_network_are_closed(networks: Networks) -> None:
    web = await networks["a"].attach("web", ON_BRIDGE)
    task = await networks["a"].attach("task", ON_MESH)
    for subnet in ("172.29.0.0/16", "10.98.0.0/16"):
        in_host(OUTSIDE, "ip", "route", "replace", subnet, "via", ADDRESSES["a"])
    async with serving(web.netns_path, "web"), serving(task.netns_path, "task"):
        pairs: list[tuple[Path | str, Endpoint]] = [
            (namespace(OUTSIDE), web),
            (namespace(OUTSIDE), task),
            (web.netns_path, task),
            (task.netns_path, web),
        ]
        for client, target in pairs:
            with pytest.raises(TimeoutError):
                await ask(client, target.outward.ipv4, 80, within=0.5)
        assert (await ask(namespace("a"), web.outward.ipv4, 80))[0] == "web"


async def test_egress_is_masqueraded(networks: Networks) -> None:
    web = await networks["a"].attach("web", ON_BRIDGE)
    task = await networks["b"].attach("task", ON_MESH)
    async with serving(namespace(OUTSIDE), "outside", 7000):
        for client, host in ((web, "a"), (task, "b")):
            answer = await ask(client.netns_path, ADDRESSES[OUTSIDE], 7000)
            assert answer == ("outside", ADDRESSES[host])


async def test_port_clashes_are_refused_by_name(networks: Networks) -> None:
    net = networks["a"]
    sentence = re.escape("Bind for 0.0.0.0:8080 failed: port is already allocated")
    binding = PortBinding(container_port=80, host_port=8080)
    async with serving(namespace("a"), "foreign", 8080):
        with pytest.raises(FailedPrecondition, match=sentence):
            await net.attach("web", ON_BRIDGE, [binding])
        await net.set_ingress([ingress(8080)])
        assert len(net.taken_ports) == 1
        # the other process keeps its traffic
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080))[0] == "foreign"
    await net.set_ingress([])
    await net.attach("web", ON_BRIDGE, [binding])
    with pytest.raises(FailedPrecondition, match=sentence):
        await net.attach("more", ON_BRIDGE, [binding])
    with pytest.raises(OSError, match="in use"), _udp() as _:
        _listen_on(8080)
    await net.set_ingress([ingress(8080)])
    assert len(net.taken_ports) == 1
    await net.detach("web")
    await net.attach("more", ON_BRIDGE, [PortBinding(container_port=80, host_port=8082)])


def _listen_on(port: int) -> None:
    failures: list[OSError] = []

    def make() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("0.0.0.0", port))
        except OSError as error:
            failures.append(error)
        return made

    inside(namespace("a"), make).close()
    raise failures[0]


async def test_network_none_has_loopback_only(networks: Networks) -> None:
    alone = await networks["a"].attach("alone", ())
    async with serving(alone.netns_path, "alone"):
        assert (await ask(alone.netns_path, "127.0.0.1", 80))[0] == "alone"
        with pytest.raises(OSError, match="unreachable"):
            await ask(alone.netns_path, ADDRESSES["a"], 80)
    with pytest.raises(AlreadyExists):
        await networks["a"].attach("alone", ())


async def test_restart_keeps_connections_and_rules(networks: Networks) -> None:
    old = networks["a"]
    web = await old.attach("web", ON_BRIDGE, [PortBinding(container_port=80, host_port=8080)])
    task = await old.attach("task", ON_MESH)
    entries = [ingress(9000, task)]
    await old.set_ingress(entries)
    async with serving(web.netns_path, "web"), serving(task.netns_path, "task"):
        open_web = await connect(namespace(OUTSIDE), ADDRESSES["a"], 8080)
        open_task = await connect(namespace(OUTSIDE), ADDRESSES["a"], 9000)
        before = await old.rules()
        kept = [msgspec.json.decode(msgspec.json.encode(e), type=Endpoint) for e in (web, task)]
        await old.stop()
        assert await open_web.echo()
        assert await open_task.echo()
        new = networks["a"] = network("a")
        await new.start()
        assert await new.rules() == before
        with pytest.raises(FailedPrecondition):
            await new.attach("early", ON_BRIDGE)
        await new.set_mesh(mesh("a"))
        await new.set_ingress(entries)
        await new.adopt(kept)
        assert _normal(await new.rules()) == _normal(before)
        assert await open_web.echo()
        assert await open_task.echo()
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080))[0] == "web"
        with pytest.raises(FailedPrecondition):
            await new.attach("x", ON_BRIDGE, [PortBinding(container_port=80, host_port=8080)])
        another = await new.attach("another", ON_BRIDGE)
        assert another.outward.ipv4 not in (web.outward.ipv4, task.outward.ipv4)
        await open_web.close()
        await open_task.close()


def _normal(rules: str) -> list[str]:
    """Rules without the order of a map's elements, which is the kernel's."""
    return sorted(re.sub(r"[{},]|elements =", " ", rules).split("\n"))


async def test_adopt_sweeps_what_is_not_known(networks: Networks) -> None:
    old = networks["a"]
    binding = [PortBinding(container_port=80, host_port=8080)]
    known = await old.attach("known", ON_BRIDGE)
    lost = await old.attach("lost", ON_BRIDGE, binding)
    async with serving(lost.netns_path, "lost"), serving(known.netns_path, "known"):
        await old.stop()
        new = networks["a"] = network("a")
        await new.start()
        await new.adopt([known])
        links = in_host("a", "ip", "-o", "link")
        assert "taac1d0002" in links
        assert "taac1d0003" not in links
        assert "8080" not in await new.rules()
        assert "ta-x" not in links  # no mesh was given
        await new.attach("next", ON_BRIDGE, binding)


@pytest.mark.parametrize(
    "damage",
    [
        "ip link del ta-l",
        "ip link del ta-c",
        "ip link del ta-x",
        "ip link set ta-c down",
        "ip link set ta0a620102 nomaster",
        "ip address flush dev ta-c",
        "ip route del 10.98.2.0/24",
        "ip neigh del 10.98.2.1 dev ta-x",
        "bridge fdb del 02:53:0a:62:02:01 dev ta-x",
        "ip -6 address flush dev ta-c",
        "ip -6 route del fd00:5::a62:200/120",
        "ip neigh del fd00:5::a62:201 dev ta-x",
        "ip neigh replace 10.98.2.1 lladdr 02:00:00:00:00:01 dev ta-x nud permanent",
        "nft delete table inet shoal_ta",
        "nft flush chain inet shoal_ta published",
        "nft flush map inet shoal_ta ports4",
        "nft flush map inet shoal_ta targets4",
        "nft flush chain inet shoal_ta pick4_1",
        "nft flush ruleset",
    ],
)
async def test_damage_is_repaired_within_two_seconds(networks: Networks, damage: str) -> None:
    one = await networks["a"].attach("one", ON_MESH)
    two = await networks["b"].attach("two", ON_MESH)
    assert one.outward.ipv4 == "10.98.1.2"
    await networks["a"].set_ingress([ingress(8080, two)])
    async with (
        serving(two.netns_path, "two"),
        serving(one.netns_path, "one"),
        running(networks["a"]),
    ):
        await _until_it_works(one, two, 5)
        in_host("a", *damage.split())
        await _until_it_works(one, two, 2)


async def _until_it_works(one: Endpoint, two: Endpoint, within: float) -> None:
    async with asyncio.timeout(within):
        while not await _works(one, two):  # noqa: ASYNC110 - traffic is the only sign
            await asyncio.sleep(0.05)


async def _works(one: Endpoint, two: Endpoint) -> bool:
    try:
        await ask(namespace("a"), two.outward.ipv4, 80, within=0.3)
        await ask(namespace("a"), two.outward.ipv6, 80, within=0.3)
        await ask(namespace("b"), one.outward.ipv4, 80, within=0.3)
        await ask(namespace("b"), one.outward.ipv6, 80, within=0.3)
        await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080, within=0.3)
    except (OSError, TimeoutError):
        return False
    return "ta-l" in in_host("a", "ip", "-o", "link")


async def test_sysctls_are_set_again(networks: Networks) -> None:
    in_host(
        "a", "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.ta-l.route_localnet=0"
    )
    await networks["a"].repair()
    assert in_host("a", "sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert in_host("a", "sysctl", "-n", "net.ipv4.conf.ta-l.route_localnet").strip() == "1"


async def test_hundred_containers_leave_nothing(networks: Networks) -> None:
    net = networks["a"]
    before = leftovers("a")
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        ports = [PortBinding(container_port=80)]
        await net.attach(f"c{number}", ON_BRIDGE if number % 2 else ON_MESH, ports)
    for number in range(100):
        await net.release_netns(f"c{number}")
        await net.detach(f"c{number}")
        await net.detach(f"c{number}")
    await eventually(lambda: leftovers("a") == before, within=10)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_mesh_goes_and_changes(networks: Networks) -> None:
    net = networks["a"]
    await net.attach("task", ON_MESH)
    with pytest.raises(FailedPrecondition, match="task"):
        await net.set_mesh(None)
    await net.detach("task")
    await net.set_mesh(None)
    assert "ta-x" not in in_host("a", "ip", "-o", "link")
    with pytest.raises(FailedPrecondition, match="no subnet"):
        await net.attach("task", ON_MESH)
    moved = msgspec.structs.replace(mesh("a"), subnet="10.98.77.0/24", vni=4000, udp_port=4790)
    await net.set_mesh(moved)
    assert (await net.attach("task", ON_MESH)).outward.ipv4 == "10.98.77.2"
