"""Cluster networks on three hosts, real kernel: reach, isolation, repair, restart, cost."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Sequence

import msgspec
import pytest

from agent.network.desired import Attachment, Endpoint
from agent.network.netlink import Channel, Request
from shoal.model.assignment import NetworkService
from shoal.model.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from shoal.model.ids import NetworkID, ServiceID
from shoal.model.spec.service import PortConfig
from tests.integration.network.lab import (
    ADDRESSES,
    OUTSIDE,
    SUBNETS,
    Networks,
    ask,
    connect,
    eventually,
    in_host,
    inside,
    leftovers,
    mesh,
    namespace,
    network,
    reaches,
    running,
    serving,
    set_bridge_filter,
)
from tests.integration.network.managers import Managers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
]


@pytest.fixture
def managers(networks: Networks) -> Managers:
    return Managers(networks)


def inner(endpoint: Endpoint, *command: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net={endpoint.netns_path}", *command],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize("filtered", ["0", "1"])
async def test_tasks_of_a_network_reach_each_other_and_nobody_else_does(
    networks: Networks, managers: Managers, filtered: str
) -> None:
    for host, each in networks.items():
        set_bridge_filter(host, filtered)
        await each.repair()
    one = await managers.run("one", "a", 10, "red")
    near = await managers.run("near", "a", 11, "red")
    far = await managers.run("far", "b", 12, "red")
    blue = await managers.run("blue", "a", 13, "blue")
    both = await managers.run("both", "c", 14, "blue", "red")
    async with serving(one.netns_path, "one"), serving(far.netns_path, "far"):
        for address, name in (
            ("10.50.0.10", "one"),
            ("fd50::a", "one"),
            ("10.50.0.12", "far"),
            ("fd50::c", "far"),
        ):
            for client in (one, near, far):
                assert (await ask(client.netns_path, address, 80))[0] == name, (client, address)
            assert not await reaches(blue, address)
            for host in SUBNETS:
                with pytest.raises((OSError, TimeoutError)):
                    await ask(namespace(host), address, 80, within=0.3)
        # a task on two networks uses the first for what both have; by the second's interface
        # it is there all the same
        assert "eth2" in inner(both, "ip", "-o", "link")
        assert both.outward.name == "eth2"
        assert inner(both, "ip", "route", "show", "default").split()[2] == "10.98.3.1"


async def test_no_way_leads_through_the_host(networks: Networks, managers: Managers) -> None:
    one = await managers.run("one", "a", 10, "red")
    blue = await managers.run("blue", "a", 200, "blue")
    async with serving(one.netns_path, "one"):
        # a container that sends to the host's own hardware addresses whatever it likes
        for device, out in (("ta-b001002", "eth0"), ("ta-c", "eth1")):
            mac = in_host("a", "ip", "-o", "link", "show", device).split("link/ether ")[1][:17]
            inner(blue, "ip", "route", "replace", "10.50.0.10/32", "dev", out)
            inner(blue, "ip", "neigh", "replace", "10.50.0.10", "lladdr", mac, "dev", out)
            assert not await reaches(blue, "10.50.0.10")


async def test_egress_and_the_tasks_addresses(networks: Networks, managers: Managers) -> None:
    in_host(OUTSIDE, "ip", "address", "replace", "fd99::9/64", "dev", "eth0", "nodad")
    in_host("a", "ip", "address", "replace", "fd99::1/64", "dev", "eth0", "nodad")
    one = await managers.run("one", "a", 10, "red")
    async with serving(namespace(OUTSIDE), "outside", 7000):
        assert await ask(one.netns_path, ADDRESSES[OUTSIDE], 7000) == (
            "outside",
            ADDRESSES["a"],
        )
        assert await ask(one.netns_path, "fd99::9", 7000) == ("outside", "fd99::1")
    addresses = inner(one, "ip", "-o", "address")
    assert "fe80" not in addresses
    assert [(each.network, each.name) for each in one.interfaces] == [
        ("red", "eth0"),
        ("mesh", "eth1"),
    ]


async def test_an_internal_network_alone_has_no_gateway(
    networks: Networks, managers: Managers
) -> None:
    service = ServiceID("s")
    managers.place("one", "inner", "a", 10)
    await managers.tell()
    attachments = (
        managers.attachment("one", "inner"),
        Attachment(network="mesh", service=service),
    )
    one = await networks["a"].attach("one", attachments)
    assert [each.network for each in one.interfaces] == ["inner"]
    assert inner(one, "ip", "route", "show", "default") == ""
    await networks["a"].detach("one")
    key = f"inner/{service}"
    managers.services[key] = NetworkService(
        network_id=NetworkID("inner"),
        service_id=service,
        name="s",
        ports=(PortConfig(target_port=80, published_port=8080),),
    )
    await managers.tell()
    one = await networks["a"].attach("one", attachments)
    assert [each.network for each in one.interfaces] == ["inner", "mesh"]


async def test_packets_are_as_large_as_the_underlay_allows(
    networks: Networks, managers: Managers
) -> None:
    managers.change("blue", mtu=1300)
    one = await managers.run("one", "a", 10, "red", "blue")
    two = await managers.run("two", "b", 11, "red", "blue")
    assert two.interfaces
    loop = asyncio.get_running_loop()
    with inside(one.netns_path, _udp) as sender, inside(two.netns_path, _udp) as receiver:
        sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: never in fragments
        sender.sendto(bytes(1450 - 28), ("10.50.0.11", 5555))
        async with asyncio.timeout(2):
            assert len(await loop.sock_recv(receiver, 2000)) == 1450 - 28
        with pytest.raises(OSError, match="too long"):
            sender.sendto(bytes(1451 - 28), ("10.50.0.11", 5555))
    assert "mtu 1300" in inner(one, "ip", "link", "show", "eth1")


async def test_a_network_comes_with_the_first_and_goes_with_the_last(
    networks: Networks, managers: Managers
) -> None:
    def devices() -> bool:
        return "001001" in in_host("a", "ip", "-o", "link")

    await managers.tell()
    assert not devices()
    with pytest.raises(Unavailable, match="not known on this host yet"):
        await networks["a"].attach("early", [Attachment(network="green")])
    # what an earlier run left under its name is no obstacle
    in_host("a", "ip", "link", "add", "ta-v001001", "type", "bridge")
    await managers.run("one", "a", 10, "red")
    await managers.run("two", "a", 11, "red")
    assert devices()
    await managers.end("one", "a")
    assert devices()
    await managers.end("two", "a")
    assert not devices()


async def test_a_number_that_another_device_has_is_said_with_its_name(
    networks: Networks, managers: Managers
) -> None:
    theirs = "ip link add theirs type vxlan id 4097 dstport 4789 dev eth0"
    in_host("a", "sh", "-c", theirs)
    with pytest.raises(FailedPrecondition, match=r"VXLAN device theirs .* number 4097 .* 4789"):
        await managers.run("one", "a", 10, "red")
    blue = await managers.run("two", "a", 11, "blue")
    in_host("a", "ip", "link", "del", "theirs")
    managers.place("two", "red", "a", 11)
    await managers.tell()
    await networks["a"].connect("two", blue.netns_path, managers.attachment("two", "red"))
    assert "001001" in in_host("a", "ip", "-o", "link")


async def test_a_running_container_joins_and_leaves(
    networks: Networks, managers: Managers
) -> None:
    one = await managers.run("one", "a", 10)
    far = await managers.run("far", "b", 11, "red")
    managers.place("one", "red", "a", 10)
    await managers.tell()
    async with serving(far.netns_path, "far"):
        assert not await reaches(one, "10.50.0.11")
        joined = await networks["a"].connect(
            "one", one.netns_path, managers.attachment("one", "red")
        )
        assert [each.name for each in joined.interfaces] == ["eth0", "eth1"]
        assert (await ask(one.netns_path, "10.50.0.11", 80)) == ("far", "10.50.0.10")
        assert (await ask(one.netns_path, "fd50::b", 80)) == ("far", "fd50::a")
        with pytest.raises(AlreadyExists):
            await networks["a"].connect(
                "one", one.netns_path, managers.attachment("one", "red")
            )
        left = await networks["a"].disconnect("one", one.netns_path, "red")
        assert [each.network for each in left.interfaces] == ["mesh"]
        assert not await reaches(one, "10.50.0.11")
        assert "001001" not in in_host("a", "ip", "-o", "link")
        with pytest.raises(NotFound):
            await networks["a"].disconnect("one", one.netns_path, "red")


async def test_restart_keeps_connections(networks: Networks, managers: Managers) -> None:
    one = await managers.run("one", "a", 10, "red")
    far = await managers.run("far", "b", 11, "red")
    async with serving(one.netns_path, "one"):
        opened = await connect(far.netns_path, "10.50.0.10", 80)
        kept = msgspec.json.decode(msgspec.json.encode(one), type=Endpoint)
        before = in_host("a", "bridge", "fdb", "show", "dev", "ta-v001001")
        await networks["a"].stop()
        assert await opened.echo()
        new = networks["a"] = network("a")
        await new.start()
        await new.set_mesh(mesh("a"))
        await new.set_networks(managers.told("a"))
        await new.adopt([kept])
        assert await opened.echo()
        assert in_host("a", "bridge", "fdb", "show", "dev", "ta-v001001") == before
        await opened.close()


async def test_networks_unknown_after_a_restart_are_left_alone(
    networks: Networks, managers: Managers
) -> None:
    one = await managers.run("one", "a", 10, "red")
    far = await managers.run("far", "b", 11, "red")
    async with serving(one.netns_path, "one"):
        opened = await connect(far.netns_path, "10.50.0.10", 80)
        await networks["a"].stop()
        new = networks["a"] = network("a")
        await new.start()
        await new.set_mesh(mesh("a"))
        await new.adopt([one])  # the journal was lost
        assert await opened.echo()
        await new.set_networks(managers.told("a"))
        assert await opened.echo()
        await managers.run("third", "c", 12, "red")
        assert "10.99.0.3" in in_host("a", "bridge", "fdb", "show", "dev", "ta-v001001")
        await opened.close()


@pytest.mark.parametrize(
    "damage",
    [
        "ip link del ta-b001001",
        "ip link del ta-v001001",
        "ip link set ta-b001001 down",
        "ip link set ta-v001001 nomaster",
        "ip link set ta-v001001 down",
        "bridge fdb del 02:42:0a:32:00:0b dev ta-v001001 self",
        "bridge fdb del 02:42:0a:32:00:0b dev ta-v001001 master",
        "ip neigh del 10.50.0.11 dev ta-v001001",
        "ip neigh del fd50::b dev ta-v001001",
    ],
)
async def test_damage_is_repaired_within_two_seconds(
    networks: Networks, managers: Managers, damage: str
) -> None:
    one = await managers.run("one", "a", 10, "red")
    far = await managers.run("far", "b", 11, "red")

    def state() -> list[str]:
        return [
            in_host("a", "bridge", "fdb", "show", "dev", "ta-v001001"),
            in_host("a", "ip", "neigh", "show", "dev", "ta-v001001"),
            in_host("a", "ip", "-6", "neigh", "show", "dev", "ta-v001001"),
            str("master ta-b001001" in in_host("a", "ip", "link", "show", "ta-v001001")),
            str(" UP" in in_host("a", "ip", "link", "show", "ta-b001001", "up")),
        ]

    async with serving(far.netns_path, "far"), running(networks["a"]):
        await ask(one.netns_path, "10.50.0.11", 80)
        before = [sorted(each.splitlines()) for each in state()]
        in_host("a", *damage.split())
        async with asyncio.timeout(2):
            while not _is(state, before):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.05)
        await ask(one.netns_path, "10.50.0.11", 80)
        await ask(one.netns_path, "fd50::b", 80)


def _is(state: "object", before: list[list[str]]) -> bool:
    assert callable(state)
    try:
        return [sorted(each.splitlines()) for each in state()] == before
    except subprocess.CalledProcessError:
        return False


async def test_a_forged_packet_of_a_stranger_is_dropped(
    networks: Networks, managers: Managers
) -> None:
    one = await managers.run("one", "a", 10, "red")
    with inside(one.netns_path, _udp) as listener:
        assert not await _arrives(listener, str(namespace(OUTSIDE)))
        assert await _arrives(listener, str(namespace("b")))


async def test_a_container_cannot_speak_as_its_host_to_another(
    networks: Networks, managers: Managers
) -> None:
    """Masqueraded on its way out, what it sends would come from a peer."""
    one = await managers.run("one", "a", 10, "red")
    two = await managers.run("two", "b", 11, "blue")
    with inside(one.netns_path, _udp) as listener:
        assert not await _arrives(listener, two.netns_path)


async def _arrives(listener: socket.socket, sender: str) -> bool:
    """Whether a datagram for a task on `a` does that is sent to the host from a namespace."""
    frame = _frame("02:42:0a:32:00:0a", "10.50.0.99", "10.50.0.10")
    header = b"\x08\0\0\0" + (4097).to_bytes(3, "big") + b"\0"
    listener.setblocking(False)
    with inside(sender, lambda: socket.socket(type=socket.SOCK_DGRAM)) as sending:
        sending.sendto(header + frame, (ADDRESSES["a"], 4789))
    try:
        async with asyncio.timeout(0.5):
            return await asyncio.get_running_loop().sock_recv(listener, 100) == b"forged"
    except TimeoutError:
        return False


def _udp() -> socket.socket:
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", 5555))
    return made


def _frame(mac: str, source: str, target: str) -> bytes:
    data = b"forged"
    udp = b"\x15\xb3\x15\xb3" + (8 + len(data)).to_bytes(2, "big") + b"\0\0" + data
    ip = bytearray(b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0")
    ip += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(int.from_bytes(ip[at : at + 2], "big") for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("0242ffffffff0800") + ip + udp


async def test_a_change_among_a_thousand_endpoints_reads_and_writes_what_changed(
    networks: Networks, managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await managers.run("one", "a", 10, "red")
    for number in range(1000):
        managers.place(f"t{number}", "red", "b", 256 + number)
    await networks["a"].set_networks(managers.told("a"))
    assert in_host("a", "bridge", "fdb", "show", "dev", "ta-v001001").count("10.99.0.2") == 1000
    written: list[int] = []
    apply = Channel.apply

    def counted(channel: Channel, requests: Sequence[Request]) -> None:
        written.append(len(requests))
        apply(channel, requests)

    monkeypatch.setattr(Channel, "apply", counted)
    monkeypatch.setattr(Channel, "dump", None)  # of all: it would cost as much as all
    for number in range(20):
        managers.place(f"t{number}", "red", "c", 3000 + number)
        await networks["a"].set_networks(managers.told("a"))
    monkeypatch.undo()
    assert sum(written) == 20 * 8  # of the neighbour in each family, and of where its MAC is
    entries = in_host("a", "bridge", "fdb", "show", "dev", "ta-v001001")
    assert entries.count("10.99.0.3") == 20
    assert entries.count("10.99.0.2") == 980


async def test_hundred_tasks_on_networks_leave_nothing(
    networks: Networks, managers: Managers
) -> None:
    before = leftovers("a")
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        await managers.run(f"t{number}", "a", 10 + number, "red", "blue")
    for number in range(50):
        await managers.end(f"t{number}", "a")
    await eventually(lambda: leftovers("a") == before, within=10)
    assert len(os.listdir("/proc/self/fd")) == descriptors
