"""Virtual IPs in a container's namespace, real kernel: spread, change, read back, repair."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from agent.network.conntrack import count_flows
from agent.network.container_rules import ContainerRules
from agent.network.netlink import Channel
from tests.integration.network.lab import eventually, inside
from tests.integration.network.lan import (
    address,
    ask,
    ask_datagram,
    channel,
    datagrams_to,
    lan,
    path,
    ping,
    pinging,
    rules,
    run,
    serving,
    talk,
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VIP, OTHER, VIP6 = "10.97.1.1", "10.97.1.2", "fd97::100"
LOST = {4: "10.97.0.66", 6: "fd97::66"}
LISTING = """
table inet shoal {
map sizes4 {
type ipv4_addr : mark
elements = { 10.97.1.1 : 0x00000002, 10.97.1.2 : 0x00000000 }
}
map backends4 {
type ipv4_addr . mark : ipv4_addr
elements = { 10.97.1.1 . 0x00000000 : 10.97.0.2, 10.97.1.1 . 0x00000001 : 10.97.0.3 }
}
"""
CHOICE = """
chain choose4 {
meta l4proto != tcp add @loose4 { ip daddr }
ct mark set ip daddr map @sizes4
ct mark vmap @picks4
}
"""
PICK = """
chain pick4_0_2 {
ct mark set numgen random mod 2
dnat ip to ip daddr . ct mark map @backends4
}
"""


def backends(*names: str, family: int = 4) -> tuple[str, ...]:
    return tuple(address(name, family) for name in names)


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    with lan():
        yield


@pytest.fixture
def inside_client() -> Iterator[Channel]:
    made = channel("client")
    yield made
    made.close()
    run("client", "nft", "flush", "ruleset")


@pytest.fixture
def made(inside_client: Channel) -> ContainerRules:
    return ContainerRules("c", inside_client)


def test_nft_understands_what_is_there(made: ContainerRules) -> None:
    made.make({VIP: backends("one", "two"), OTHER: ()})
    listing = " ".join(rules("client").split())
    for part in (LISTING, CHOICE, PICK):
        assert " ".join(part.split()) in listing
    assert "ct status dnat accept" in listing
    assert "ip6 daddr @virtual6 goto choose6" in listing


async def test_new_connections_are_spread_evenly(made: ContainerRules) -> None:
    names = ("one", "two", "three")
    made.make({VIP: backends(*names), VIP6: backends(*names, family=6)})
    async with serving(*names):
        for target in (VIP, VIP6):
            answers = Counter([await ask("client", target) for _ in range(150)])
            assert set(answers) == set(names)
            # 50 expected each; six standard deviations are 35
            assert min(answers.values()) > 15
        for target in (VIP, VIP6):
            with datagrams_to("client", target) as sender:
                assert await ask_datagram(sender) in names
            with pinging("client", target) as pinger:
                assert ping(pinger)


async def test_a_container_may_be_its_own_backend(made: ContainerRules) -> None:
    made.make({VIP: backends("client")})
    async with serving("client"):
        for _ in range(20):
            own = await talk("client", VIP)
            assert (own.server, own.seen_as) == ("client", address("client"))
            await own.close()


async def test_without_backends_it_is_refused_at_once(made: ContainerRules) -> None:
    made.make({VIP: (), VIP6: ()})
    for target in (VIP, VIP6):
        with pytest.raises(ConnectionRefusedError):
            await ask("client", target)
        refusals = (PermissionError, ConnectionRefusedError)
        with datagrams_to("client", target) as sender, pytest.raises(refusals):
            await ask_datagram(sender)


async def test_an_established_connection_outlives_every_change(made: ContainerRules) -> None:
    made.make({VIP: backends("one")})
    async with serving("one", "two"):
        old = await talk("client", VIP)
        made.change({VIP: backends("two")})
        assert await ask("client", VIP) == "two"
        assert await old.echo()
        made.change({VIP: ()})
        with pytest.raises(ConnectionRefusedError):
            await ask("client", VIP)
        assert await old.echo()
        made.change({VIP: None})
        assert await old.echo()
        made.change({VIP: backends("two")})
        assert await ask("client", VIP) == "two"
        assert await old.echo()
        await old.close()


@pytest.mark.parametrize("family", [4, 6])
async def test_a_connection_that_nobody_answers_goes_on_to_another_backend(
    made: ContainerRules, inside_client: Channel, family: int
) -> None:
    virtual, lost = VIP if family == 4 else VIP6, LOST[family]
    run("client", *f"ip neigh replace {lost} lladdr 02:00:00:00:00:66 dev eth0".split())
    made.make({virtual: (lost,)})
    before = count_flows(inside_client)
    async with serving("one"), asyncio.TaskGroup() as group:
        asking = group.create_task(ask("client", virtual))
        await eventually(lambda: count_flows(inside_client) > before)
        made.change({virtual: backends("one", family=family)})
        assert await asking == "one"


async def test_udp_and_ping_leave_a_removed_backend(made: ContainerRules) -> None:
    made.make({VIP: backends("one"), VIP6: backends("one", family=6)})
    async with serving("one", "two"):
        for family, target in ((4, VIP), (6, VIP6)):
            with datagrams_to("client", target) as steady, pinging("client", target) as pinger:
                assert await ask_datagram(steady) == "one"
                assert ping(pinger)
                made.change({target: backends("one", "two", family=family)})
                assert await ask_datagram(steady) == "one"
                made.change({target: backends("two", family=family)})
                listed = ("conntrack", "-L", "-f", f"ipv{family}", "-p")
                icmp = "icmp" if family == 4 else "icmpv6"
                for protocol in ("udp", icmp):
                    assert (
                        f"src={address('one', family)} "
                        not in run("client", *listed, protocol).stdout
                    )
                assert await ask_datagram(steady) == "two"
                assert ping(pinger)


async def test_udp_leaves_a_removed_backend_after_a_restart_and_a_repair(
    made: ContainerRules, inside_client: Channel
) -> None:
    made.make({VIP: backends("one")})
    async with serving("one", "two"):
        with datagrams_to("client", VIP) as steady:
            assert await ask_datagram(steady) == "one"
            later = ContainerRules("c", inside_client)
            later.make({VIP: backends("two")})
            assert await ask_datagram(steady) == "two"
            run("client", "nft", "flush", "ruleset")
            assert later.repair(lambda: {VIP: backends("two")})
            later.change({VIP: backends("one")})
            assert await ask_datagram(steady) == "one"


async def test_what_an_earlier_run_left_is_taken_over(
    made: ContainerRules, inside_client: Channel
) -> None:
    made.make({VIP: backends("one"), OTHER: backends("one", "two"), VIP6: ()})
    made.change({VIP: backends("one", "two", "three")})
    made.change({VIP: backends("one")})
    before = rules("client")
    async with serving("one", "two"):
        old = await talk("client", VIP)
        later = ContainerRules("c", inside_client)
        later.make({VIP: backends("one"), OTHER: backends("one", "two"), VIP6: ()})
        assert rules("client") == before
        later.make({VIP: backends("two"), VIP6: backends("two", family=6)})
        assert await ask("client", VIP) == "two"
        assert await ask("client", VIP6) == "two"
        assert OTHER not in rules("client")
        assert await old.echo()
        await old.close()


@pytest.mark.parametrize(
    "deed",
    [
        "flush ruleset",
        "flush chain inet shoal guard",
        "flush chain inet shoal out",
        "flush chain inet shoal pick4_0_1",
        "add rule inet shoal out drop",
        "insert rule inet shoal pick4_0_1 drop",
        "add chain inet shoal mine",
        "flush map inet shoal backends4",
        "delete element inet shoal virtual4 { 10.97.1.1 }",
        "add element inet shoal sizes4 { 10.97.1.9 : 1 }",
        "add element inet shoal backends4 { 10.97.1.1 . 5 : 10.97.0.9 }",
        "delete element inet shoal picks4 { 1 }",
    ],
)
async def test_what_others_change_comes_back(made: ContainerRules, deed: str) -> None:
    wanted = {VIP: backends("one")}
    made.make(wanted)
    before = rules("client")
    done = run("client", "nft", *deed.split())
    assert done.returncode == 0, done.stderr
    assert rules("client") != before
    assert made.repair(lambda: wanted)
    assert rules("client") == before
    assert not made.repair(lambda: wanted)
    async with serving("one"):
        assert await ask("client", VIP) == "one"


async def test_a_change_amid_the_changes_of_others(made: ContainerRules) -> None:
    made.make({VIP: backends("one")})
    run("client", "nft", "add", "table", "inet", "mine")
    made.change({VIP: backends("two")})
    async with serving("one", "two"):
        assert await ask("client", VIP) == "two"
    run("client", "nft", "add", "table", "inet", "more")
    assert not made.repair(lambda: {VIP: backends("two")})
    assert "table inet mine" in rules("client")


async def test_replacing_all_keeps_connections(made: ContainerRules) -> None:
    wanted = {VIP: backends("one")}
    made.make(wanted)
    async with serving("one"):
        old = await talk("client", VIP)
        run("client", "nft", "add", "rule", "inet", "shoal", "out", "counter")
        assert made.repair(lambda: wanted)
        assert await old.echo()
        await old.close()


def test_many_services_in_one_transaction(made: ContainerRules) -> None:
    many = {
        f"10.97.{4 + n // 250}.{n % 250}": tuple(f"10.97.200.{i}" for i in range(n % 9))
        for n in range(1000)
    }
    made.make(many)
    assert not made.repair(lambda: many)
    made.make({})
    assert "elements" not in rules("client").partition("map picks4")[0]


def test_packets_of_other_protocols_are_balanced_too(made: ContainerRules) -> None:
    """SCTP by a raw socket: this is the rule, with or without the kernel's SCTP."""
    made.make({VIP: backends("one")})
    with _raw("one") as heard, _raw("client") as said:
        # an INIT chunk; its checksum is not looked at on the way
        chunk = "01000014 00000001 00010000 0001 0001 00000001"
        init = bytes.fromhex("1388 0050 00000000 00000000" + chunk)
        said.sendto(init, (VIP, 0))
        packet = heard.recv(2000)
    assert packet[16:20] == socket.inet_aton(address("one"))
    assert packet[20:24] == init[:4]


def _raw(name: str) -> socket.socket:
    made = inside(path(name), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 132))
    made.settimeout(3)
    return made
