"""Beside a live firewalld on one host: what is ours passes, no more; a reload is repaired."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from agent.network.desired import Endpoint, PortBinding
from agent.network.host_network import HostNetwork
from tests.integration.network.firewalld import Firewalld, firewalld, missing
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
)
from tests.integration.network.managers import Managers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
    pytest.mark.skipif(missing() != "", reason=missing()),
]

OURS = "ta-+"
_GUARDS = ("nft", "list", "table", "inet", "firewalld")
_log = structlog.get_logger(__name__)


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Firewalld]:
    """Host a is guarded, and lets VXLAN in, as the guide tells its owner to."""
    with firewalld("a", tmp_path, monkeypatch) as made:
        made("--permanent", "--add-port=4789/udp")
        made("--reload")
        yield made
    in_host("a", "nft", "flush", "ruleset")


@pytest.fixture
async def networks(guard: Firewalld) -> AsyncIterator[Networks]:
    async with meshed_networks() as made:
        yield made
    assert not guard.trusts(OURS)
    assert "shoal" not in leftovers("a")


async def test_everything_works_beside_firewalld_and_after_its_reload(
    networks: Networks, guard: Firewalld
) -> None:
    """Published ports of both kinds and families, overlays, egress; and nothing else."""
    assert guard.trusts(OURS)
    managers = Managers(networks)
    one = await managers.run("one", "a", 10, "red")
    far = await managers.run("far", "b", 12, "red")
    task = await networks["a"].attach("task", ON_MESH)
    person = await networks["a"].attach(
        "person", ON_BRIDGE, [PortBinding(container_port=80, host_port=7070)]
    )
    for each in networks.values():
        await each.set_ingress([ingress(8080, task)])

    async def leads_out(client: Endpoint) -> bool:
        try:
            found = await ask(client.netns_path, ADDRESSES[OUTSIDE], 7000, within=1)
        except (OSError, TimeoutError):
            return False
        return found[0] == "outside"

    async def all_works() -> None:
        for addresses in (ADDRESSES, ADDRESSES6):
            for host in SUBNETS:  # through the mesh to the guarded host, too
                assert (await ask(namespace(OUTSIDE), addresses[host], 8080))[0] == "task"
        assert (await ask(namespace(OUTSIDE), ADDRESSES["a"], 7070))[0] == "person"
        assert (await ask(far.netns_path, "10.50.0.10", 80))[0] == "one"
        assert (await ask(one.netns_path, "10.50.0.12", 80))[0] == "far"
        assert await leads_out(task)
        assert await leads_out(person)
        with pytest.raises(OSError):  # noqa: PT011 - firewalld says so in its own way
            await ask(namespace(OUTSIDE), ADDRESSES["a"], 9999, within=1)

    async with (
        serving(one.netns_path, "one"),
        serving(far.netns_path, "far"),
        serving(task.netns_path, "task"),
        serving(person.netns_path, "person"),
        serving(namespace(OUTSIDE), "outside", 7000),
        serving(namespace("a"), "closed", 9999),
    ):
        await all_works()
        guard("--zone=trusted", f"--remove-interface={OURS}")
        assert not await leads_out(person)  # firewalld is in earnest
        assert await _repaired_in(networks["a"], guard) < 2
        await all_works()


async def _repaired_in(host: HostNetwork, guard: Firewalld) -> float:
    """Seconds from the end of a reload until our bridges are trusted again."""
    async with running(host):
        await asyncio.to_thread(guard, "--reload")
        reloaded = time.monotonic()
        await eventually(lambda: "ta-*" in in_host("a", *_GUARDS), 20)
        seconds = time.monotonic() - reloaded
    _log.info("firewalld reloaded", repaired_in=round(seconds, 2))
    return seconds
