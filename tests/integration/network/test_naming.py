"""What the host's network says to whoever answers names inside containers, and when."""

import os
from collections.abc import AsyncIterator

import pytest

from agent.network.desired import ClusterNetworks, Endpoint
from agent.network.host_network import HostNetwork
from shoal.model.errors import Internal
from tests.integration.network.lab import (
    LOCAL,
    ON_MESH,
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


class Remembering:
    """Remembers what was said; fails on wish."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []
        self.broken = False

    async def opened(self, endpoint: Endpoint, netns: str) -> None:
        os.close(os.open(netns, os.O_RDONLY))
        networks = (each.network for each in endpoint.interfaces)
        self.said.append(("opened", endpoint.container, *networks))
        if self.broken:
            raise Internal("no names today")

    async def reopened(self, endpoint: Endpoint, netns: str) -> None:
        self.said.append(("reopened", endpoint.container))

    async def closed(self, container: str) -> None:
        self.said.append(("closed", container))

    async def changed(self, networks: ClusterNetworks) -> None:
        self.said.append(("changed", *networks.networks))


@pytest.fixture
def naming() -> Remembering:
    return Remembering()


@pytest.fixture
async def network(naming: Remembering) -> AsyncIterator[HostNetwork]:
    made = HostNetwork(prefix="ta", local_subnet=LOCAL, namespace=namespace("a"), naming=naming)
    await made.start()
    await made.set_mesh(mesh("a"))
    yield made
    await made.destroy()
    assert leftovers("a") == ""


async def test_a_container_is_told_of_whenever_its_networks_change(
    network: HostNetwork, naming: Remembering
) -> None:
    managers = Managers({"a": network})
    one = await managers.run("one", "a", 10)
    managers.place("one", "red", "a", 10)
    await managers.tell()
    await network.connect("one", one.netns_path, managers.attachment("one", "red"))
    await network.disconnect("one", one.netns_path, "red")
    await network.reopen("one", one.netns_path)
    await network.detach("one")
    known = ("changed", "red", "blue", "inner", "secret")
    assert naming.said == [
        known,
        ("opened", "one", "mesh"),
        known,
        ("opened", "one", "mesh", "red"),
        ("opened", "one", "mesh"),
        ("reopened", "one"),
        ("closed", "one"),
    ]


async def test_a_container_without_names_is_not_attached(
    network: HostNetwork, naming: Remembering
) -> None:
    naming.broken = True
    with pytest.raises(Internal, match="no names today"):
        await network.attach("one", ON_MESH)
    naming.broken = False
    await network.attach("one", ON_MESH)
