"""The agent's `/networks`, in front of a real manager's API, on a worker, and on its own."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, UnixConnector

from agent.api.cluster import NOT_IN_SWARM, WORKER, Gateway
from agent.api.cluster_networks import ClusterNetworks
from agent.api.local_networks import LocalNetworks
from agent.api.networks import Networks
from agent.engine.container import Container
from agent.engine.describe import network_id
from agent.engine.events import EventBus
from agent.engine.networks import HostNetworks
from agent.engine.records import Record, State
from agent.engine.registry import Registry
from agent.network.desired import MESH, Endpoint, Interface
from agent.network.local import LocalNetwork
from agent.swarm import JoinRequest
from shoal.common.clock import SystemClock
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.model.assignment import (
    AssignedNetwork,
    AssignedTask,
    Assignments,
    Backend,
    IngressPort,
    IngressSet,
    MeshPart,
    NetworkEndpoint,
    NetworkService,
    Peer,
    Subnet,
    TaskNetwork,
)
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import InvalidArgument
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from tests.unit.manager.api.deciding import deciding, until
from tests.unit.manager.api.serving import Cell, Client, serving

BACK = NetworkID("back0" * 5)
TASK = TaskID("t" * 25)
WEB = ServiceID("w" * 25)
TOLD = Assignments(
    tasks={
        TASK: AssignedTask(
            id=TASK,
            service_id=WEB,
            service_name="web",
            name=f"web.1.{TASK}",
            networks=(
                TaskNetwork(
                    network_id=BACK, addresses=("10.0.1.3/24", "fd00::3/64"), mac="02:42::3"
                ),
            ),
        )
    },
    networks={
        BACK: AssignedNetwork(
            id=BACK,
            name="back",
            vni=4100,
            subnets=(Subnet(subnet="10.0.1.0/24", gateway="10.0.1.1"),),
            labels={"a": "b"},
        )
    },
    endpoints={
        f"{BACK}/{TASK}": NetworkEndpoint(
            network_id=BACK,
            task_id=TASK,
            node_id=NodeID("n1"),
            underlay="10.77.0.1",
            addresses=("10.0.1.3",),
            mac="02:42::3",
            names=(f"web.1.{TASK}",),
            service_id=WEB,
            serving=True,
        )
    },
    services={
        f"{BACK}/{WEB}": NetworkService(
            network_id=BACK, service_id=WEB, name="web", virtual_ips=("10.0.1.2",)
        )
    },
)


class Engine:
    """A host's networks and containers, without anything running."""

    def __init__(self) -> None:
        self.networks = {n: network_id("i", n) for n in ("bridge", "host", "none")}
        self.registry = Registry(random.Random(1))

    def run(self, directory: Path, identity: str, owner: str) -> None:
        record = Record(
            id=identity,
            name=f"web.1.{owner}",
            created_at=SystemClock().now(),
            image_id="",
            config=ContainerConfig(),
            host_config=HostConfig(),
            state=State(status="running"),
            owner=owner,
        )
        self.registry.add(Container(record, directory, directory))


class SimulatedWires:
    """The host's network, without a kernel; `on_host` are the subnets that it has."""

    def __init__(self) -> None:
        self.networks: tuple[LocalNetwork, ...] = ()
        self.on_host: list[str] = ["172.30.0.1/16", "172.17.0.1/16"]

    async def set_local(self, networks: Sequence[LocalNetwork]) -> None:
        self.networks = tuple(networks)

    async def probe(self, network: LocalNetwork) -> None:
        if network.parent != "eth0":
            raise InvalidArgument(f"parent {network.parent!r}: this host has no such link")

    async def used_subnets(self) -> list[str]:
        return self.on_host


class Membership:
    """A host in a cluster, or in none."""

    def __init__(self, *, node: str = "", manages: bool = False) -> None:
        self.node = node
        self.manages = manages
        self.assignments = Assignments()

    async def init(self, body: bytes) -> tuple[int, bytes]:
        raise AssertionError(body)

    async def join(self, request: JoinRequest) -> None:
        raise AssertionError(request)

    async def leave(self, *, force: bool) -> None:
        raise AssertionError(force)

    def section(self) -> dict[str, Any]:
        state = "active" if self.node else "inactive"
        return {
            "NodeID": self.node,
            "LocalNodeState": state,
            "ControlAvailable": self.manages,
        }

    def told(self) -> Assignments:
        return self.assignments


class Host:
    """One agent's API and what is behind it."""

    def __init__(
        self,
        client: Client,
        engine: Engine,
        membership: Membership,
        networks: HostNetworks,
    ) -> None:
        self.client = client
        self.engine = engine
        self.networks = networks
        self.membership = membership

    async def get(self, path: str, status: int = 200) -> Any:
        got, body = await self.client.ask("GET", path)
        assert got == status, body
        return body

    async def names(self, query: str = "") -> list[str]:
        return [one["Name"] for one in await self.get(f"/networks{query}")]

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, answer = await self.client.ask(method, path, body)
        return status, answer["message"]


@asynccontextmanager
async def host(tmp_path: Path, membership: Membership) -> AsyncIterator[Host]:
    """The agent's API; the manager's socket, if there is one, is in the same directory."""
    engine = Engine()
    router = Router()
    gateway = Gateway(tmp_path / "manager.sock", membership)
    wires, clock = SimulatedWires(), SystemClock()
    networks = HostNetworks(
        tmp_path / "networks", "i", wires, engine.registry, EventBus(clock), clock
    )
    local = LocalNetworks(networks, engine.registry, "172.30.0.0/16", "172.30.0.1", clock)
    Networks(local, ClusterNetworks(gateway, engine.registry)).add_routes(router)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EngineServer(router))
        path = tmp_path / "agent.sock"
        await server.serve_unix(path)
        session = ClientSession(connector=UnixConnector(str(path)))
        client = Client(await stack.enter_async_context(session))
        yield Host(client, engine, membership, networks)


@asynccontextmanager
async def manager(tmp_path: Path) -> AsyncIterator[tuple[Cell, Host]]:
    """A host that is a manager, and the cluster that it manages."""
    async with (
        serving(tmp_path, patience=0.2) as (cell, _),
        deciding(cell),
        host(tmp_path, Membership(node="n1", manages=True)) as made,
    ):
        yield cell, made


def filters(**given: list[str]) -> str:
    return "?filters=" + msgspec.json.encode(given).decode()


async def create(found: Host, name: str, **more: Any) -> str:
    body = {"Name": name, "Driver": "overlay", **more}
    status, answer = await found.client.ask("POST", "/v1.50/networks/create", body)
    assert status == 201, answer
    identity: str = answer["Id"]
    return identity


async def test_a_manager_makes_shows_and_removes_cluster_networks(tmp_path: Path) -> None:
    async with manager(tmp_path) as (cell, found):
        identity = await create(found, "back", Labels={"a": "b"})
        await until(cell, lambda: _subnet(cell, identity) != "")
        assert sorted(await found.names()) == ["back", "bridge", "host", "ingress", "none"]
        assert await found.names(filters(name=["^ba"])) == ["back"]
        assert await found.names(filters(label=["a=b"])) == ["back"]
        assert sorted(await found.names(filters(scope=["local"]))) == ["bridge", "host", "none"]
        assert await found.names(filters(type=["builtin"], driver=["null"])) == ["none"]
        for text in ("back", identity, identity[:9]):
            shown = await found.get(f"/networks/{text}?verbose=true&scope=swarm")
            assert (shown["Id"], shown["Scope"]) == (identity, "swarm")
            assert shown["IPAM"]["Config"][0]["Subnet"] == _subnet(cell, identity)
            assert shown["Services"] == {}
            assert shown["Containers"] == {}
        await found.get("/networks/back?scope=local", 404)
        assert (await found.client.ask("DELETE", "/networks/back"))[0] == 204
        assert await found.refused("DELETE", "/networks/back") == (
            404,
            "network back not found",
        )


def _subnet(cell: Cell, identity: str) -> str:
    network = cell.memory.network(NetworkID(identity))
    return network.pools[0].subnet if network is not None and network.pools else ""


async def test_swarm_scope_without_a_driver_is_the_clusters(tmp_path: Path) -> None:
    async with manager(tmp_path) as (_, found):
        await create(found, "back", Driver="", Scope="swarm")
        assert (await found.get("/networks/back"))["Driver"] == "overlay"


async def test_names_are_one_space(tmp_path: Path) -> None:
    async with manager(tmp_path) as (_, found):
        await create(found, "back")
        overlay = {"Name": "bridge", "Driver": "overlay"}
        assert await found.refused("POST", "/networks/create", overlay) == (
            403,
            "bridge is a pre-defined network and cannot be created",
        )
        assert await found.refused("POST", "/networks/create", {"Name": "back"}) == (
            409,
            "network with name back already exists",
        )
        again = {"Name": "back", "Driver": "overlay"}
        assert (await found.refused("POST", "/networks/create", again))[0] == 409


async def test_the_managers_refusals_are_the_answers(tmp_path: Path) -> None:
    async with manager(tmp_path) as (_, found):
        wrong = {"Name": "x", "Driver": "overlay", "IPAM": {"Config": [{"Subnet": "10.1.1.1"}]}}
        status, sentence = await found.refused("POST", "/networks/create", wrong)
        assert (status, "IPAM.Config[0].Subnet" in sentence) == (400, True)
        status, sentence = await found.refused("DELETE", "/networks/bridge")
        assert (status, "pre-defined" in sentence) == (403, True)


async def test_prune_takes_the_clusters_unused_networks(tmp_path: Path) -> None:
    async with manager(tmp_path) as (_, found):
        await create(found, "back")
        await create(found, "kept", Labels={"keep": "yes"})
        path = "/networks/prune" + filters(**{"label!": ["keep"]})
        assert await found.client.ask("POST", path) == (200, {"NetworksDeleted": ["back"]})
        assert await found.client.ask("POST", path) == (200, {"NetworksDeleted": None})
        assert "kept" in await found.names()


async def test_members_are_this_hosts_running_containers(tmp_path: Path) -> None:
    async with host(tmp_path, Membership(node="n1")) as found:
        found.membership.assignments = TOLD
        found.engine.run(tmp_path, "c1" + "0" * 62, TASK)
        found.engine.run(tmp_path, "c2" + "0" * 62, "another")
        shown = await found.get("/networks/back")
        assert shown["Containers"] == {
            "c1" + "0" * 62: {
                "Name": f"web.1.{TASK}",
                "EndpointID": TASK,
                "MacAddress": "02:42::3",
                "IPv4Address": "10.0.1.3/24",
                "IPv6Address": "fd00::3/64",
            }
        }


async def test_a_worker_knows_the_networks_it_has_tasks_on(tmp_path: Path) -> None:
    async with host(tmp_path, Membership(node="n1")) as found:
        found.membership.assignments = TOLD
        assert sorted(await found.names()) == ["back", "bridge", "host", "none"]
        assert await found.names(filters(label=["a"], scope=["swarm"])) == ["back"]
        shown = await found.get("/networks/back?verbose=1")
        assert shown["Peers"] == [{"Name": "n1", "IP": "10.77.0.1"}]
        assert shown["Services"]["web"]["VIP"] == "10.0.1.2"
        assert shown["Services"]["web"]["Tasks"][0]["EndpointIP"] == "10.0.1.3"
        overlay = {"Name": "x", "Driver": "overlay"}
        assert await found.refused("POST", "/networks/create", overlay) == (503, WORKER)
        assert await found.refused("DELETE", "/networks/back") == (503, WORKER)
        assert await found.client.ask("POST", "/networks/prune") == (
            200,
            {"NetworksDeleted": None},
        )


async def test_every_node_knows_what_ports_are_published_on(tmp_path: Path) -> None:
    """`ingress` with this host's containers behind ports, and `docker_gwbridge` itself."""
    ingress = AssignedNetwork(
        id=NetworkID("in"), name="ingress", subnets=(Subnet(subnet="10.128.0.0/9"),)
    )
    told = msgspec.structs.replace(
        TOLD,
        mesh=MeshPart(
            subnet="10.129.3.0/24",
            ingress=ingress,
            peers=(Peer(node_id=NodeID("n2"), address="10.77.0.2", subnet="10.129.4.0/24"),),
        ),
        ingress=IngressSet(
            ports=(
                IngressPort(
                    protocol="tcp",
                    published=8080,
                    backends=(Backend(address="10.129.3.4", port=80),),
                ),
            )
        ),
    )
    async with host(tmp_path, Membership(node="n1")) as found:
        found.membership.assignments = told
        found.networks.in_cluster = lambda: True
        found.networks.told = lambda: told
        for name, last in (("c1", "4"), ("c2", "5")):
            (tmp_path / name).mkdir()
            found.engine.run(tmp_path / name, name, f"task-{name}")
            container = found.engine.registry.find(name)
            place = Interface(network=MESH, addresses=(f"10.129.3.{last}/24",), mac="02:42")
            container.change(endpoint=Endpoint(container=name, interfaces=(place,)))
        assert "ingress" in await found.names(filters(scope=["swarm"]))
        shown = await found.get("/networks/ingress?verbose=true")
        assert (shown["Id"], shown["Ingress"], shown["Scope"]) == ("in", True, "swarm")
        assert shown["IPAM"]["Config"][0]["Subnet"] == "10.128.0.0/9"
        assert [*shown["Containers"]] == ["c1"]
        assert shown["Containers"]["c1"]["IPv4Address"] == "10.129.3.4/24"
        assert shown["Peers"] == [{"Name": "n2", "IP": "10.77.0.2"}]
        bridge = await found.get("/networks/docker_gwbridge")
        assert bridge["IPAM"]["Config"] == [
            {"Subnet": "10.129.3.0/24", "Gateway": "10.129.3.1"}
        ]
        assert sorted(bridge["Containers"]) == ["c1", "c2"]
        assert (await found.get("/networks/back"))["Ingress"] is False


async def test_outside_of_a_cluster_overlay_is_refused_with_the_way_in(tmp_path: Path) -> None:
    async with host(tmp_path, Membership()) as found:
        overlay = {"Name": "x", "Driver": "overlay"}
        assert await found.refused("POST", "/networks/create", overlay) == (503, NOT_IN_SWARM)
        assert sorted(await found.names()) == ["bridge", "host", "none"]
        assert await found.refused("GET", "/networks/x") == (404, "network x not found")


@pytest.mark.parametrize("text", ["back", BACK[:5]])
async def test_a_silent_manager_hides_no_network_of_this_host(
    tmp_path: Path, text: str
) -> None:
    async with host(tmp_path, Membership(node="n1", manages=True)) as found:
        found.membership.assignments = TOLD
        assert sorted(await found.names()) == ["back", "bridge", "host", "none"]
        assert (await found.get(f"/networks/{text}"))["Name"] == "back"
        status, sentence = await found.refused("GET", "/networks/other")
        assert (status, "does not answer" in sentence) == (503, True)
        assert (await found.get("/networks/bridge"))["Name"] == "bridge"


async def test_what_is_ambiguous_is_refused(tmp_path: Path) -> None:
    async with host(tmp_path, Membership(node="n1")) as found:
        bridge = found.engine.networks["bridge"]
        twin = msgspec.structs.replace(TOLD.networks[BACK], id=NetworkID(bridge[:5] + "x" * 20))
        found.membership.assignments = Assignments(networks={twin.id: twin})
        status, sentence = await found.refused("GET", f"/networks/{bridge[:5]}")
        assert (status, "2 matches found based on ID prefix" in sentence) == (400, True)
        assert (await found.get(f"/networks/{bridge}"))["Name"] == "bridge"


async def make(found: Host, name: str, **more: Any) -> str:
    status, answer = await found.client.ask("POST", "/networks/create", {"Name": name, **more})
    assert status == 201, answer
    identity: str = answer["Id"]
    return identity


async def test_a_host_makes_shows_and_removes_its_own_networks(tmp_path: Path) -> None:
    async with host(tmp_path, Membership()) as found:
        identity = await make(found, "red", Labels={"a": "b"}, Internal=True)
        assert await found.names(filters(label=["a=b"], driver=["bridge"])) == ["red"]
        assert await found.names(filters(type=["custom"], dangling=["true"])) == ["red"]
        shown = await found.get(f"/networks/{identity[:9]}")
        assert (shown["Name"], shown["Scope"], shown["Internal"]) == ("red", "local", True)
        assert shown["IPAM"]["Config"] == [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]
        status, sentence = await found.refused("POST", "/networks/create", {"Name": "red"})
        assert (status, sentence) == (409, "network with name red already exists")
        subnet = {"Config": [{"Subnet": "172.18.1.0/24"}]}
        wrong = {"Name": "x", "IPAM": subnet}
        status, sentence = await found.refused("POST", "/networks/create", wrong)
        assert (status, "Pool overlaps" in sentence) == (403, True)
        assert (await found.client.ask("DELETE", "/networks/red"))[0] == 204
        assert await found.refused("DELETE", "/networks/red") == (404, "network red not found")


async def test_networks_are_there_again_after_a_restart(tmp_path: Path) -> None:
    async with host(tmp_path, Membership()) as found:
        identity = await make(found, "red", EnableIPv6=True)
        clock, wires = SystemClock(), SimulatedWires()
        again = HostNetworks(
            tmp_path / "networks", "i", wires, found.engine.registry, EventBus(clock), clock
        )
        await again.restore()
        assert [each.id for each in wires.networks] == [identity]
        assert again.find("red") == (identity, "red")


async def test_prune_takes_a_hosts_unused_networks(tmp_path: Path) -> None:
    async with host(tmp_path, Membership()) as found:
        await make(found, "red")
        await make(found, "kept", Labels={"keep": ""})
        path = "/networks/prune" + filters(**{"label!": ["keep"]})
        assert await found.client.ask("POST", path) == (200, {"NetworksDeleted": ["red"]})
        assert "kept" in await found.names()
