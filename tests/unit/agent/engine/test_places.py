"""Places on networks: what is asked of managers and of the host's network, and given back."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.engine import own_files
from agent.engine.container import Container
from agent.engine.events import EventBus
from agent.engine.networks import HostNetworks
from agent.engine.places import Places
from agent.engine.records import Joined, Kind, Record, State
from agent.engine.seams import ClusterPlace
from agent.network.desired import BRIDGE, MESH, Attachment, Endpoint, Interface, PortBinding
from agent.network.local import LocalNetwork
from agent.network.views import NetworkView
from shoal.common.clock import SystemClock
from shoal.model.container import ContainerConfig, EndpointSettings, HostConfig
from shoal.model.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from shoal.model.spec.network import NetworkSpec

PLAIN = EndpointSettings()


class Host:
    """The host's network in memory: a container's endpoint, with an interface a network."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.network_names: Mapping[str, str] = {}

    def publishes(self, endpoint: Endpoint) -> bool:
        return False

    async def attach(
        self,
        container: str,
        attachments: Sequence[Attachment],
        ports: Sequence[PortBinding] = (),
        name_servers: Sequence[str] = (),
    ) -> Endpoint:
        interfaces = tuple(self._interface(each) for each in attachments)
        made = Endpoint(container=container, interfaces=interfaces, ports=tuple(ports))
        self.endpoints[container] = made
        return made

    async def connect(self, container: str, netns: str, attachment: Attachment) -> Endpoint:
        now = self.endpoints[container]
        interfaces = (*now.interfaces, self._interface(attachment))
        self.endpoints[container] = replace(now, interfaces=interfaces)
        return self.endpoints[container]

    async def disconnect(self, container: str, netns: str, network: str) -> Endpoint:
        now = self.endpoints[container]
        left = tuple(each for each in now.interfaces if each.network != network)
        self.endpoints[container] = replace(now, interfaces=left)
        return self.endpoints[container]

    def _interface(self, attachment: Attachment) -> Interface:
        addresses = attachment.addresses or ("192.0.2.2/24",)
        return Interface(network=attachment.network, addresses=addresses)

    async def set_local(self, networks: Sequence[LocalNetwork]) -> None: ...

    async def probe(self, network: LocalNetwork) -> None: ...

    async def used_subnets(self) -> list[str]:
        return []

    async def release_netns(self, container: str) -> None: ...

    async def detach(self, container: str) -> None:
        self.endpoints.pop(container, None)

    async def adopt(self, endpoints: Sequence[Endpoint]) -> None: ...

    async def reopen(self, container: str, netns: str) -> None: ...


class Managers:
    """The attachable network `wide`, and who has a place on it."""

    def __init__(self) -> None:
        self.given: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.away = False

    async def attach(
        self,
        network: str,
        container: str,
        name: str,
        aliases: Sequence[str],
        addresses: Sequence[str],
    ) -> ClusterPlace:
        self._check()
        if network not in ("wide", "w1"):
            raise NotFound(f"network {network} not found")
        task = f"task-{container}"
        self.given[task] = (name, tuple(aliases))
        return ClusterPlace(
            task=task, network="w1", name="wide", addresses=("10.0.1.5/24",), mac="02:00"
        )

    async def detach(self, task: str) -> None:
        self._check()
        self.given.pop(task, None)

    def held(self) -> Mapping[str, str]:
        return dict.fromkeys(self.given, "")

    def _check(self) -> None:
        if self.away:
            raise Unavailable("no manager answers")


class Names:
    def __init__(self) -> None:
        self.views: Mapping[str, NetworkView] = {}

    async def change_local(self, views: Mapping[str, NetworkView]) -> None:
        self.views = views


class Cell:
    """One host with one container."""

    def __init__(self, directory: Path) -> None:
        self.host, self.managers, self.names = Host(), Managers(), Names()
        self.containers: list[Container] = []
        self.events = EventBus(SystemClock())
        self.networks = HostNetworks(
            directory / "networks", "i", self.host, self.containers, self.events, SystemClock()
        )
        self.places = Places(self.networks, self.host)
        self.places.cluster, self.places.names = self.managers, self.names
        self._directory = directory

    async def made(self, *networks: str, kind: Kind = "joined", owner: str = "") -> Container:
        """A container that asks for these networks; it does not run."""
        joined = [await self.places.resolve(each, PLAIN, "c1", "web") for each in networks]
        record = Record(
            id="c1",
            name="web",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            image_id="i",
            config=ContainerConfig(hostname="web"),
            host_config=HostConfig(),
            network=kind,
            joined=tuple(joined),
            owner=owner,
        )
        state, bundle = self._directory / "c1", self._directory / "run" / "c1"
        state.mkdir()
        bundle.mkdir(parents=True)
        container = Container(record, state, bundle)
        self.containers.append(container)
        return container

    async def start(self, container: Container) -> Endpoint:
        attachments = await self.places.attachments(container)
        endpoint = await self.host.attach(container.id, attachments)
        own_files.write(container, endpoint)
        container.change(endpoint=endpoint, state=State(status="running", pid=1))
        await self.places.started(container)
        return endpoint

    async def end(self, container: Container) -> None:
        was = container.record.endpoint
        await self.host.detach(container.id)
        container.change(endpoint=None, state=State(status="exited"))
        await self.places.release(container, was=was)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


def networks(endpoint: Endpoint | None) -> list[str]:
    return [each.network for each in endpoint.interfaces] if endpoint is not None else []


async def test_a_place_in_the_cluster_lasts_from_creation_to_the_end_of_a_run(
    cell: Cell,
) -> None:
    container = await cell.made("wide")
    assert cell.managers.given == {"task-c1": ("web", ("c1",))}
    endpoint = await cell.start(container)
    assert networks(endpoint) == ["w1", MESH]  # nothing else leads out
    assert endpoint.interfaces[0].addresses == ("10.0.1.5/24",)
    assert cell.places.tasks() == {"task-c1"}
    await cell.end(container)
    assert cell.managers.given == {}
    assert cell.places.tasks() == set()
    await cell.start(container)  # asked for again
    assert cell.places.tasks() == {"task-c1"} == cell.managers.given.keys()


async def test_without_managers_nothing_starts_and_an_end_is_left_to_the_sweep(
    cell: Cell,
) -> None:
    container = await cell.made("wide")
    await cell.start(container)
    cell.managers.away = True
    await cell.end(container)
    assert cell.places.tasks() == set()
    assert cell.managers.given.keys() == {"task-c1"}
    with pytest.raises(Unavailable):
        await cell.start(container)


async def test_a_network_that_comes_after_the_container_is_found_at_the_start(
    cell: Cell,
) -> None:
    container = await cell.made()
    unknown = Joined(network="", name="later")
    container.change(joined=(unknown,))
    with pytest.raises(NotFound, match="failed to set up container networking: network later"):
        await cell.start(container)
    made = await cell.networks.create(NetworkSpec(name="later"))
    assert networks(await cell.start(container)) == [made.id]
    assert container.record.joined == (replace(unknown, network=made.id),)


async def test_the_gateway_network_is_there_while_nothing_else_leads_out(cell: Cell) -> None:
    container = await cell.made("wide")
    await cell.start(container)
    await cell.places.connect(container, BRIDGE, PLAIN)
    assert networks(container.record.endpoint) == ["w1", BRIDGE]
    await cell.places.disconnect(container, BRIDGE)
    assert networks(container.record.endpoint) == ["w1", MESH]
    await cell.places.disconnect(container, "wide")
    assert networks(container.record.endpoint) == []
    assert cell.managers.given == {}


async def test_a_running_container_has_its_names_on_the_networks_it_joins(cell: Cell) -> None:
    red = await cell.networks.create(NetworkSpec(name="red"))
    container = await cell.made(kind="bridge")
    await cell.start(container)
    asked = EndpointSettings(aliases=("shop",))
    await cell.places.connect(container, "red", asked)
    assert sorted(cell.names.views[red.id].zone.names) == ["c1", "shop", "web"]
    resolver = container.bundle / "resolv.conf"
    assert resolver.read_text().startswith("nameserver 127.0.0.11\n")
    with pytest.raises(PermissionDenied, match="already exists in network red"):
        await cell.places.connect(container, red.id, PLAIN)
    await cell.places.disconnect(container, red.id[:8])
    assert not cell.names.views[red.id].zone.names
    assert "127.0.0.11" not in resolver.read_text()
    told = [(each.action, each.attributes["name"]) for each in cell.events.past()]
    assert told == [
        ("create", "red"),
        ("connect", BRIDGE),
        ("connect", "red"),
        ("disconnect", "red"),
    ]


async def test_a_container_that_does_not_run_changes_networks_on_record_only(
    cell: Cell,
) -> None:
    await cell.networks.create(NetworkSpec(name="red"))
    container = await cell.made(kind="bridge")
    await cell.places.connect(container, "red", PLAIN)
    await cell.places.connect(container, "wide", PLAIN)
    assert [each.name for each in container.record.networks] == [BRIDGE, "red", "wide"]
    assert cell.host.endpoints == {}
    await cell.places.disconnect(container, "wide")
    assert cell.managers.given == {}
    await cell.places.disconnect(container, "red")
    with pytest.raises(PermissionDenied, match="is not connected to network red"):
        await cell.places.disconnect(container, "red")


@pytest.mark.parametrize(
    ("kind", "owner", "error"),
    [
        ("none", "", InvalidArgument),
        ("host", "", InvalidArgument),
        ("container", "", InvalidArgument),
        ("mesh", "task", PermissionDenied),
    ],
)
async def test_whose_networks_are_not_a_persons_to_change(
    cell: Cell, kind: Kind, owner: str, error: type[Exception]
) -> None:
    await cell.networks.create(NetworkSpec(name="red"))
    container = await cell.made(kind=kind, owner=owner)
    for change in (
        cell.places.connect(container, "red", PLAIN),
        cell.places.disconnect(container, "red"),
    ):
        with pytest.raises(error):
            await change


async def test_a_connection_that_fails_gives_its_place_back(cell: Cell) -> None:
    container = await cell.made(kind="bridge")
    await cell.start(container)
    cell.host.endpoints.clear()
    with pytest.raises(KeyError):
        await cell.places.connect(container, "wide", PLAIN)
    assert cell.managers.given == {}
    assert [each.name for each in container.record.networks] == [BRIDGE]
