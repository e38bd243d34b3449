"""Networks of one host, real kernel: who reaches whom, what is left, macvlan where there is."""

import contextlib
import os
import re
from collections.abc import AsyncIterator

import pytest

from agent.network.desired import Attachment, PortBinding
from agent.network.host_network import HostNetwork
from agent.network.local import LocalNetwork, Pool
from shoal.model.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unimplemented,
)
from tests.integration.network.lab import (
    ADDRESSES,
    ON_BRIDGE,
    OUTSIDE,
    ask,
    eventually,
    in_host,
    leftovers,
    namespace,
    network,
    reaches,
    serving,
    set_bridge_filter,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
]


def made(number: int, **fields: object) -> LocalNetwork:
    pools = (Pool(subnet=f"10.77.{number}.0/24", gateway=f"10.77.{number}.1"),)
    values = {"id": f"net{number}", "name": f"net{number}", "number": number, "pools": pools}
    return LocalNetwork(**(values | fields))  # type: ignore[arg-type]


DUAL = (
    Pool(subnet="10.77.9.0/24", gateway="10.77.9.254", within="10.77.9.128/25"),
    Pool(subnet="fd77:9::/64", gateway="fd77:9::1"),
)


def on(*numbers: int) -> list[Attachment]:
    return [Attachment(network=f"net{number}") for number in numbers]


@pytest.fixture
async def host() -> AsyncIterator[HostNetwork]:
    made = network("a")
    await made.start()
    yield made
    await made.destroy()
    assert leftovers("a") == ""


@pytest.mark.parametrize("filtered", ["0", "1"])
async def test_containers_of_a_network_reach_each_other_and_no_other_network(
    host: HostNetwork, filtered: str
) -> None:
    set_bridge_filter("a", filtered)
    await host.set_local([made(1), made(2), made(3, isolated=True)])
    one, two = await host.attach("one", on(1)), await host.attach("two", on(1))
    other = await host.attach("other", on(2))
    plain = await host.attach("plain", ON_BRIDGE)
    shut, closed = await host.attach("shut", on(3)), await host.attach("closed", on(3))
    async with serving(two.netns_path, "two"), serving(closed.netns_path, "closed"):
        assert await ask(one.netns_path, two.first.ipv4, 80) == ("two", one.first.ipv4)
        assert not await reaches(other, two.first.ipv4)
        assert not await reaches(plain, two.first.ipv4)
        assert not await reaches(shut, closed.first.ipv4)


async def test_what_leaves_is_masqueraded_and_an_internal_network_leads_nowhere(
    host: HostNetwork,
) -> None:
    await host.set_local([made(1), made(2, internal=True)])
    one, inner = await host.attach("one", on(1)), await host.attach("inner", on(2))
    async with serving(namespace(OUTSIDE), "far", 81):
        assert await ask(one.netns_path, ADDRESSES[OUTSIDE], 81) == ("far", ADDRESSES["a"])
        assert not await reaches(inner, ADDRESSES[OUTSIDE], 81)
    assert inner.first.gateways == ()
    with pytest.raises(InvalidArgument, match="leads out"):
        await host.attach("x", on(2), [PortBinding(container_port=80)])


async def test_a_published_port_leads_to_a_container_on_a_users_network(
    host: HostNetwork,
) -> None:
    await host.set_local([made(1), made(2)])
    web = await host.attach("web", on(1), [PortBinding(container_port=80, host_port=8088)])
    same, other = await host.attach("same", on(1)), await host.attach("other", on(2))
    async with serving(web.netns_path, "web"):
        name, seen = await ask(namespace(OUTSIDE), ADDRESSES["a"], 8088)
        assert (name, seen) == ("web", ADDRESSES[OUTSIDE])
        for client in (same, other):
            assert (await ask(client.netns_path, ADDRESSES["a"], 8088))[0] == "web"
        assert (await ask(namespace("a"), "127.0.0.1", 8088))[0] == "web"


async def test_both_families_ranges_and_wanted_addresses(host: HostNetwork) -> None:
    await host.set_local([made(9, pools=DUAL)])
    one = await host.attach("one", on(9))
    wish = Attachment(
        network="net9", addresses=("10.77.9.7", "fd77:9::77"), mac="02:00:00:00:00:07"
    )
    two = await host.attach("two", [wish])
    assert one.first.addresses == ("10.77.9.128/24", "fd77:9::2/64")
    assert (two.first.addresses, two.first.mac) == (
        ("10.77.9.7/24", "fd77:9::77/64"),
        "02:00:00:00:00:07",
    )
    async with serving(two.netns_path, "two"):
        assert (await ask(one.netns_path, "fd77:9::77", 80))[0] == "two"
        assert (await ask(one.netns_path, "10.77.9.7", 80))[0] == "two"
    with pytest.raises(Conflict, match=r"10\.77\.9\.7"):
        await host.attach("three", [wish])
    with pytest.raises(InvalidArgument, match="not in"):
        await host.attach("three", [Attachment(network="net9", addresses=("10.1.1.1",))])
    await host.detach("two")
    assert (await host.attach("three", [wish])).first.ipv4 == "10.77.9.7"


async def test_an_exhausted_network_says_so(host: HostNetwork) -> None:
    pools = (Pool(subnet="10.77.8.0/30", gateway="10.77.8.1"),)
    await host.set_local([made(8, pools=pools)])
    await host.attach("one", on(8))
    with pytest.raises(ResourceExhausted, match=r"10\.77\.8\.0/30"):
        await host.attach("two", on(8))


async def test_a_running_container_joins_and_leaves(host: HostNetwork) -> None:
    await host.set_local([made(1), made(2)])
    one, two = await host.attach("one", on(1)), await host.attach("two", on(2))
    async with serving(two.netns_path, "two"), serving(namespace(OUTSIDE), "far", 81):
        assert not await reaches(one, two.first.ipv4)
        joined = await host.connect("one", one.netns_path, on(2)[0])
        assert [each.name for each in joined.interfaces] == ["eth0", "eth1"]
        assert await reaches(one, two.first.ipv4)
        left = await host.disconnect("one", one.netns_path, "net1")
        assert left.outward.network == "net2"
        assert await reaches(one, ADDRESSES[OUTSIDE], 81)  # by the other network now
        await host.connect("one", one.netns_path, on(1)[0])
        await host.disconnect("one", one.netns_path, "net2")
        assert not await reaches(one, two.first.ipv4)


async def test_adopted_after_a_restart_and_repaired(host: HostNetwork) -> None:
    networks = [made(1), made(2)]
    await host.set_local(networks)
    one, two = await host.attach("one", on(1)), await host.attach("two", on(1))
    with contextlib.ExitStack() as stack:
        paths = []
        for each in (one, two):
            held = os.open(each.netns_path, os.O_RDONLY)
            stack.callback(os.close, held)
            paths.append(f"/proc/self/fd/{held}")
        await host.stop()
        again = network("a")
        await again.start()
        await again.set_local(networks)
        await again.adopt([one, two])
        async with serving(paths[1], "two"):
            assert (await ask(paths[0], two.first.ipv4, 80))[0] == "two"
            in_host("a", "ip", "link", "del", "ta-n1")
            await again.repair()
            assert "ta-n1" in in_host("a", "ip", "-o", "link")
        third = await again.attach("third", on(1))
        assert third.first.ipv4 not in (one.first.ipv4, two.first.ipv4)
        with pytest.raises(FailedPrecondition, match="active endpoints"):
            await again.set_local(networks[1:])
        await again.stop()
    await host.start()


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
async def test_a_network_on_a_link_of_the_host_or_a_sentence_why_not(
    host: HostNetwork, driver: str
) -> None:
    mode = {"macvlan": "bridge", "ipvlan": "l2"}[driver]
    pools = (Pool(subnet="10.99.0.0/24", gateway="10.99.0.254", within="10.99.0.64/26"),)
    child = made(5, driver=driver, parent="eth0", mode=mode, pools=pools)
    with pytest.raises(InvalidArgument, match="nolink"):
        await host.probe(made(5, driver=driver, parent="nolink", mode=mode))
    before = in_host("a", "ip", "-o", "link")
    try:
        await host.probe(child)
    except Unimplemented as refusal:
        refused = str(refusal)
    else:
        refused = ""
    if refused:
        assert f"no {driver}" in refused
        assert in_host("a", "ip", "-o", "link") == before
        return
    assert in_host("a", "ip", "-o", "link") == before
    await host.set_local([child, made(1)])
    one = await host.attach("one", on(5))
    assert one.first.link == ""
    async with serving(namespace(OUTSIDE), "far", 81):
        assert await ask(one.netns_path, ADDRESSES[OUTSIDE], 81) == ("far", one.first.ipv4)
    await host.connect("one", one.netns_path, on(1)[0])
    await host.disconnect("one", one.netns_path, "net5")
    assert not await reaches(one, "10.99.0.254")


async def test_fifty_networks_leave_nothing(host: HostNetwork) -> None:
    def there() -> tuple[str, ...]:
        shown = ("ip -br link", "ip route", "ip -6 route", "ip rule")
        texts = [in_host("a", *each.split()) for each in shown]
        carrier = re.compile("NO-CARRIER,|,LOWER_UP|linkdown|state [A-Z]+|UNKNOWN|DOWN| +")
        return tuple(carrier.sub("", text) for text in texts)

    await host.detach((await host.attach("one", ON_BRIDGE)).container)
    await eventually(lambda: "taac" not in there()[0])
    before, rules = there(), await host.rules()
    for number in range(50):
        await host.set_local([made(number)])
        await host.attach("one", on(number))
        await host.detach("one")
        await host.set_local([])
    await eventually(lambda: "ta0a" not in there()[0])
    assert there() == before
    assert await host.rules() == rules
