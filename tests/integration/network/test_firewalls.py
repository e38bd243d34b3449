"""Beside Docker's rules, imitated in the hosts' namespaces: what is ours passes, no more."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest

from agent.network.desired import PortBinding
from tests.integration.network.lab import (
    ADDRESSES,
    ADDRESSES6,
    ON_BRIDGE,
    ON_MESH,
    OUTSIDE,
    SUBNETS,
    Networks,
    ask,
    eventually,
    in_host,
    ingress,
    leftovers,
    meshed_networks,
    namespace,
    running,
    serving,
    set_bridge_filter,
)
from tests.integration.network.managers import Managers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
    pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables"),
]


@pytest.fixture
async def networks() -> AsyncIterator[Networks]:
    """With Docker's rules on each host, as they are when it has started."""
    for host in SUBNETS:
        for program, user in (("iptables", "192.0.2.1"), ("ip6tables", "2001:db8::1")):
            for rule in (
                "-N DOCKER-USER",
                "-P FORWARD DROP",
                "-A FORWARD -j DOCKER-USER",
                f"-A DOCKER-USER -s {user} -j DROP",
                "-A DOCKER-USER -j RETURN",
            ):
                in_host(host, program, "-w", *rule.split())
    async with meshed_networks() as made:
        yield made
    for host in SUBNETS:
        assert "shoal" not in leftovers(host)
        in_host(host, "nft", "flush", "ruleset")


def rules(host: str, program: str = "iptables") -> list[str]:
    return in_host(host, program, "-w", "-S", "DOCKER-USER").splitlines()[1:]


@pytest.mark.parametrize("filtered", ["0", "1"])
async def test_everything_works_beside_dockers_rules(networks: Networks, filtered: str) -> None:
    for host, each in networks.items():
        set_bridge_filter(host, filtered)
        await each.repair()
    managers = Managers(networks)
    one = await managers.run("one", "a", 10, "red")
    near = await managers.run("near", "a", 11, "red")
    far = await managers.run("far", "b", 12, "red")
    task = await networks["a"].attach("task", ON_MESH)
    person = await networks["c"].attach(
        "person", ON_BRIDGE, [PortBinding(container_port=80, host_port=7070)]
    )
    for each in networks.values():
        await each.set_ingress([ingress(8080, task)])
    async with (
        serving(one.netns_path, "one"),
        serving(task.netns_path, "task"),
        serving(person.netns_path, "person"),
        serving(namespace(OUTSIDE), "outside", 7000),
    ):
        for addresses in (ADDRESSES, ADDRESSES6):
            for host in SUBNETS:
                assert (await ask(namespace(OUTSIDE), addresses[host], 8080))[0] == "task"
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 8080))[1] == ADDRESSES[OUTSIDE]
        assert (await ask(namespace(OUTSIDE), ADDRESSES["c"], 7070))[0] == "person"
        for client in (near, far):  # over bridge and VXLAN
            assert (await ask(client.netns_path, "10.50.0.10", 80))[0] == "one"
        for client in (task, person):  # egress
            assert (await ask(client.netns_path, ADDRESSES[OUTSIDE], 7000))[0] == "outside"


async def test_rules_stand_after_the_users_and_come_back(networks: Networks) -> None:
    net = networks["a"]
    for program in ("iptables", "ip6tables"):
        before = rules("a", program)
        assert len(before) == 4
        assert [each.split()[-1] for each in before] == ["DROP", "ACCEPT", "ACCEPT", "RETURN"]
        assert all("--comment shoal_ta" in each for each in before[1:3])
    async with running(net):
        in_host("a", "iptables", "-w", "-F", "DOCKER-USER")
        await eventually(lambda: len(rules("a")) == 2, 2)


async def test_containers_reach_dockers_only_where_docker_lets_them(
    networks: Networks,
) -> None:
    net = networks["a"]
    in_host("a", "ip", "link", "add", "docker0", "type", "bridge")
    try:
        await net.repair()
        assert any("-o docker0" in each and "RETURN" in each for each in rules("a"))
        await net.destroy()
        assert not any("shoal" in each for each in rules("a"))
    finally:
        in_host("a", "ip", "link", "del", "docker0")
