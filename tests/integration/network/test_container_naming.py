"""Names of the containers of a host's network, through its life and the agent's."""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import dnslib
import pytest

from agent.network.container_names import ContainerNames
from agent.network.host_network import HostNetwork
from agent.network.naming import ContainerNaming, Keeping
from tests.integration.network.lab import (
    LOCAL,
    ON_MESH,
    eventually,
    inside,
    leftovers,
    mesh,
    namespace,
)
from tests.integration.network.managers import Managers

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("lab"),
]


class Agent:
    """What an agent's composition root makes of it."""

    def __init__(self) -> None:
        self.names = ContainerNames(Keeping(None), {}, random.Random(1), tuple)
        self.naming = ContainerNaming(self.names)
        self.network = HostNetwork(
            prefix="ta", local_subnet=LOCAL, namespace=namespace("a"), naming=self.naming
        )


@contextlib.asynccontextmanager
async def agent() -> AsyncIterator[Agent]:
    made = Agent()
    await made.network.start()
    await made.network.set_mesh(mesh("a"))
    async with asyncio.TaskGroup() as group:
        answering = group.create_task(made.naming.run())
        try:
            yield made
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            await made.names.stop()
            await made.network.stop()


async def resolve(netns: str, name: str) -> list[str]:
    query = bytes(dnslib.DNSRecord.question(name).pack())
    loop = asyncio.get_running_loop()
    with inside(netns, lambda: socket.socket(type=socket.SOCK_DGRAM)) as made:
        made.connect(("127.0.0.11", 53))
        await loop.sock_sendall(made, query)
        async with asyncio.timeout(5):
            answer = dnslib.DNSRecord.parse(await loop.sock_recv(made, 4096))
    return [str(each.rdata) for each in answer.rr]


def has_server(netns: str) -> bool:
    with inside(netns, lambda: socket.socket(type=socket.SOCK_DGRAM)) as made:
        try:
            made.bind(("127.0.0.11", 53))
        except OSError:
            return True
    return False


async def test_names_follow_a_containers_networks_and_the_agents_restart(
    tmp_path: Path,
) -> None:
    netns = tmp_path / "netns"
    async with agent() as first:
        managers = Managers({"a": first.network})
        one = await managers.run("one", "a", 10, "red")
        holder = os.open(one.netns_path, os.O_RDONLY | os.O_CLOEXEC)
        netns.symlink_to(f"/proc/self/fd/{holder}")
        assert await resolve(str(netns), "two") == []
        managers.place("two", "red", "a", 11)
        await managers.tell()
        assert await resolve(str(netns), "two") == ["10.50.0.11"]
    async with agent() as second:
        managers = Managers({"a": second.network})
        managers.place("one", "red", "a", 10)
        managers.place("two", "red", "a", 11)
        await managers.tell()
        await second.network.adopt([one])
        netns.unlink()
        await second.network.reopen("one", str(netns))  # cannot be yet: it is tried again
        assert not has_server(f"/proc/self/fd/{holder}")
        netns.symlink_to(f"/proc/self/fd/{holder}")
        await eventually(lambda: has_server(str(netns)))
        assert await resolve(str(netns), "two") == ["10.50.0.11"]
        await second.network.detach("one")
        assert not has_server(str(netns))
        os.close(holder)
        await second.network.destroy()
    assert leftovers("a") == ""


async def test_a_container_gets_names_with_its_first_network_that_has_them() -> None:
    async with agent() as made:
        managers = Managers({"a": made.network})
        one = await made.network.attach("one", ON_MESH)
        assert not has_server(one.netns_path)
        managers.place("one", "red", "a", 10)
        await managers.tell()
        await made.network.connect("one", one.netns_path, managers.attachment("one", "red"))
        assert await resolve(one.netns_path, "one") == ["10.50.0.10"]
        await made.network.detach("one")
        await made.network.destroy()
    assert leftovers("a") == ""
