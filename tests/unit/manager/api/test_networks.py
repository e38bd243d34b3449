from pathlib import Path
from typing import Any

import pytest

from shoal.model.ids import NetworkID, ServiceID
from shoal.model.objects import Network, Service, Task
from shoal.model.states import TaskState
from tests.unit.manager.api.deciding import assigned, deciding, report, until
from tests.unit.manager.api.serving import Cell, Client, serving


def service_on(*networks: Any, name: str = "web", **more: Any) -> dict[str, Any]:
    targets = [one if isinstance(one, dict) else {"Target": one} for one in networks]
    template = {"ContainerSpec": {"Image": "busybox"}, "Networks": targets}
    return {"Name": name, "TaskTemplate": template, **more}


async def made(client: Client, name: str, **more: Any) -> str:
    status, answer = await client.ask("POST", "/networks/create", {"Name": name, **more})
    assert status == 201, answer
    identity: str = answer["Id"]
    return identity


async def created(client: Client, spec: dict[str, Any]) -> ServiceID:
    status, answer = await client.ask("POST", "/services/create", spec)
    assert status == 201, answer
    return ServiceID(answer["ID"])


async def updated(client: Client, spec: dict[str, Any]) -> None:
    version = (await client.get(f"/services/{spec['Name']}"))["Version"]["Index"]
    path = f"/services/{spec['Name']}/update?version={version}"
    status, answer = await client.ask("POST", path, spec)
    assert status == 200, answer


async def refused(client: Client, body: dict[str, Any]) -> tuple[int, str]:
    status, answer = await client.ask("POST", "/networks/create", body)
    return status, answer["message"]


def network(cell: Cell, identity: str) -> Network:
    found = cell.memory.network(NetworkID(identity))
    assert found is not None
    return found


def service(cell: Cell, identity: ServiceID) -> Service:
    found = cell.memory.service(identity)
    assert found is not None
    return found


async def test_a_network_gets_a_subnet_and_an_identifier(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        identity = await made(client, "back", Driver="overlay", Labels={"a": "b"})
        assert network(cell, identity).allocated  # the answer waits for it
        shown = await client.get("/v1.50/networks/back")
        assert shown["Id"] == identity
        assert (shown["Scope"], shown["Driver"]) == ("swarm", "overlay")
        # 10.0.0.0/24 holds the nodes' own addresses here
        assert shown["IPAM"]["Config"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
        vni = int(shown["Options"]["com.docker.network.driver.overlay.vxlanid_list"])
        assert vni == network(cell, identity).vni >= 4096
        names = [one["Name"] for one in await client.get("/networks")]
        assert sorted(names) == ["back", "ingress"]


async def test_what_a_user_says_of_subnets_is_kept(tmp_path: Path) -> None:
    config = [
        {
            "Subnet": "10.9.0.0/16",
            "IPRange": "10.9.4.0/24",
            "Gateway": "10.9.0.9",
            "AuxiliaryAddresses": {"router": "10.9.4.1"},
        },
        {"Subnet": "fd12:3456::/64"},
    ]
    async with serving(tmp_path) as (cell, client), deciding(cell):
        identity = await made(
            client,
            "back",
            EnableIPv6=True,
            IPAM={"Driver": "default", "Config": config},
            Options={"com.docker.network.driver.overlay.vxlanid_list": "5000"},
        )
        await created(client, service_on("back", Mode={"Replicated": {"Replicas": 2}}))
        tasks = await assigned(cell, "web", 2)
        found = network(cell, identity)
        assert found.vni == 5000
        shown = (await client.get("/networks/back"))["IPAM"]["Config"]
        assert shown == [config[0], {"Subnet": "fd12:3456::/64", "Gateway": "fd12:3456::1"}]
        addresses = [address for task in tasks for address in task.networks[0].addresses]
        assert sorted(addresses) == [
            "10.9.4.2/16",
            "10.9.4.3/16",
            "fd12:3456::3/64",
            "fd12:3456::4/64",
        ]
        ips = (await client.get("/services/web"))["Endpoint"]["VirtualIPs"]
        assert ips == [
            {"NetworkID": identity, "Addr": "10.9.4.0/16"},
            {"NetworkID": identity, "Addr": "fd12:3456::2/64"},
        ]


async def test_names_subnets_and_ingress_are_refused_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        subnet = {"Config": [{"Subnet": "10.9.0.0/24"}]}
        await made(client, "back", IPAM=subnet)
        assert await refused(client, {"Name": "back"}) == (
            409,
            "network with name back already exists",
        )
        wider = {"Name": "other", "IPAM": {"Config": [{"Subnet": "10.9.0.0/16"}]}}
        status, sentence = await refused(client, wider)
        assert status == 400
        assert "10.9.0.0/16 overlaps with 10.9.0.0/24 of network back" in sentence
        nodes = {"Name": "other", "IPAM": {"Config": [{"Subnet": "10.130.0.0/16"}]}}
        assert "10.128.0.0/9 of network ingress" in (await refused(client, nodes))[1]
        status, sentence = await refused(client, {"Name": "in", "Ingress": True})
        assert (status, "already present" in sentence) == (409, True)


async def test_tasks_get_addresses_and_services_virtual_ips(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        back = await made(client, "back")
        spec = service_on(
            {"Target": "back", "Aliases": ["db"]}, Mode={"Replicated": {"Replicas": 3}}
        )
        spec["EndpointSpec"] = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
        await created(client, spec)
        tasks = await assigned(cell, "web", 3)
        addresses = {task.networks[0].addresses for task in tasks}
        assert addresses == {("10.0.1.3/24",), ("10.0.1.4/24",), ("10.0.1.5/24",)}
        assert {task.networks[0].aliases for task in tasks} == {("db",)}
        shown = await client.get("/services/web")
        assert shown["Spec"]["TaskTemplate"]["Networks"] == [
            {"Target": back, "Aliases": ["db"]}
        ]
        assert shown["Endpoint"]["VirtualIPs"] == [
            {"NetworkID": "i" * 25, "Addr": "10.128.0.1/9"},
            {"NetworkID": back, "Addr": "10.0.1.2/24"},
        ]
        (first, *_) = await client.get("/tasks")
        (attached,) = first["NetworksAttachments"]
        assert attached["Network"]["Spec"]["Name"] == "back"
        assert attached["Network"]["ID"] == back
        verbose = await client.get("/networks/back?verbose=true")
        web = verbose["Services"]["web"]
        assert web["VIP"] == "10.0.1.2"
        assert len(web["Tasks"]) == 3
        assert {peer["IP"] for peer in verbose["Peers"]} == {"10.0.0.1"}


async def test_legacy_networks_stand_in_the_template(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        back = await made(client, "back")
        spec = service_on()
        await created(client, {**spec, "Networks": [{"Target": "back"}]})
        shown = (await client.get("/services/web"))["Spec"]
        assert shown["TaskTemplate"]["Networks"] == [{"Target": back}]
        assert "Networks" not in shown


@pytest.mark.parametrize(
    ("target", "status", "word"),
    [
        ("nowhere", 404, "network nowhere not found"),
        ("bridge", 403, "Only networks scoped to the swarm can be used"),
        ("ingress", 400, "cannot be explicitly attached to the ingress network"),
    ],
)
async def test_networks_that_services_cannot_be_on(
    tmp_path: Path, target: str, status: int, word: str
) -> None:
    async with serving(tmp_path) as (_, client):
        found, answer = await client.ask("POST", "/services/create", service_on(target))
        assert found == status
        assert word in answer["message"]


async def test_a_service_on_its_nodes_own_network(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        predefined = await client.get("/networks/host?scope=swarm")
        assert (predefined["Driver"], predefined["Scope"]) == ("host", "swarm")
        assert (await client.ask("GET", "/networks/host"))[0] == 404  # the agent's own
        assert "host" not in [one["Name"] for one in await client.get("/networks")]
        spec = service_on("host", Mode={"Replicated": {"Replicas": 2}})
        port = {"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}
        await created(client, {**spec, "EndpointSpec": {"Ports": [port]}})
        tasks = await assigned(cell, "web", 2)
        assert [task.networks for task in tasks] == [(), ()]
        shown = await client.get("/services/web")
        assert shown["Spec"]["TaskTemplate"]["Networks"] == [{"Target": predefined["Id"]}]
        assert (await client.get(f"/networks/{predefined['Id']}"))["Name"] == "host"


async def test_what_goes_not_with_the_nodes_own_network(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await made(client, "back")
        spec = service_on("host")
        port = {"TargetPort": 80, "PublishedPort": 8080}
        for changed, sentence in (
            ({"EndpointSpec": {"Ports": [port]}}, "published=80,target=80,mode=host"),
            (
                {"EndpointSpec": {"Ports": [{**port, "PublishMode": "host"}]}},
                "published=80,target=80,mode=host",
            ),
            (service_on({"Target": "host", "Aliases": ["a"]}), "no names on the network host"),
        ):
            status, answer = await client.ask("POST", "/services/create", {**spec, **changed})
            assert (status, sentence in answer["message"]) == (400, True)
        both = service_on("host")
        both["TaskTemplate"]["Networks"].append({"Target": "back"})
        status, answer = await client.ask("POST", "/services/create", both)
        assert (status, "goes with no other network" in answer["message"]) == (400, True)


async def test_an_update_changes_networks_and_virtual_ips(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        back, front = await made(client, "back"), await made(client, "front")
        identity = await created(client, service_on("back"))
        (old,) = await assigned(cell, "web", 1)
        await report(cell, old, TaskState.RUNNING)
        kept = service(cell, identity).endpoint.virtual_ips[0]
        changed = service_on(front)
        changed["UpdateConfig"] = {"Parallelism": 1, "Order": "start-first"}
        await updated(client, changed)
        await until(cell, lambda: len(cell.memory.tasks_of_service(identity)) == 2)
        # the old task still runs, so its network keeps the service's address
        now = service(cell, identity).endpoint.virtual_ips
        assert [ip.network_id for ip in now] == [front, back]
        assert kept in now
        new = next(t for t in cell.memory.tasks_of_service(identity) if t.id != old.id)
        assert [one.network_id for one in new.networks] == [front]
        await report(cell, new, TaskState.RUNNING)
        await report(cell, old, TaskState.SHUTDOWN)
        await until(cell, lambda: len(service(cell, identity).endpoint.virtual_ips) == 1)
        await updated(client, {**changed, "EndpointSpec": {"Mode": "dnsrr"}})
        await until(cell, lambda: not service(cell, identity).endpoint.virtual_ips)


async def test_a_network_in_use_says_by_whom(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        await made(client, "back")
        await created(client, service_on("back"))
        status, answer = await client.ask("DELETE", "/networks/back")
        assert status == 400
        assert answer["message"].endswith("network back is in use by service web")
        (running,) = await assigned(cell, "web", 1)
        await report(cell, running, TaskState.RUNNING)
        changed = service_on(UpdateConfig={"Parallelism": 1, "Order": "start-first"})
        await updated(client, changed)
        status, answer = await client.ask("DELETE", "/networks/back")
        assert status == 400
        assert f"in use by task {running.name}" in answer["message"]


async def test_removal_right_after_the_service_goes_through(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        subnet = {"Config": [{"Subnet": "10.9.0.0/24"}]}
        back = await made(client, "back", IPAM=subnet)
        await created(client, service_on("back"))
        (running,) = await assigned(cell, "web", 1)
        await report(cell, running, TaskState.RUNNING)
        assert (await client.ask("DELETE", "/services/web"))[0] == 200
        assert (await client.ask("DELETE", "/networks/back"))[0] == 204
        assert [one["Name"] for one in await client.get("/networks")] == ["ingress"]
        assert (await client.ask("GET", f"/networks/{back}"))[0] == 404
        assert (await client.ask("DELETE", "/networks/back"))[0] == 404
        again = await made(client, "back", IPAM=subnet)
        await created(client, service_on("back"))
        await until(cell, lambda: _err(cell) != "")
        assert _err(cell) == (
            "network back: subnet 10.9.0.0/24 overlaps with 10.9.0.0/24 of network back,"
            " which is being removed"
        )
        await report(cell, running, TaskState.SHUTDOWN)
        await until(cell, lambda: cell.memory.network(NetworkID(back)) is None)
        (new,) = await assigned(cell, "web", 1)
        assert [one.network_id for one in new.networks] == [again]


def _err(cell: Cell) -> str:
    return "".join(task.status.err for task in cell.memory.pending_tasks())


async def test_an_exhausted_network_says_so_and_recovers(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        await made(client, "tiny", IPAM={"Config": [{"Subnet": "10.9.0.0/29"}]})
        spec = service_on("tiny", Mode={"Replicated": {"Replicas": 5}})
        identity = await created(client, spec)
        tasks = await assigned(cell, "web", 4)
        await until(cell, lambda: _err(cell) != "")
        assert _err(cell) == "no free address in network tiny (10.9.0.0/29): all 5 are in use"
        await report(cell, tasks[0], TaskState.RUNNING)
        await report(cell, tasks[0], TaskState.FAILED)
        # its address goes to the task that waited; the one that follows waits in its stead
        await until(cell, lambda: _holders(cell, identity, tasks[0]) == 1)


def _holders(cell: Cell, identity: ServiceID, ended: Task) -> int:
    return sum(
        task.networks == ended.networks and not task.ended
        for task in cell.memory.tasks_of_service(identity)
    )


async def test_prune_takes_what_nothing_uses(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await made(client, "used")
        await made(client, "unused")
        await made(client, "kept", Labels={"keep": "yes"})
        await created(client, service_on("used"))
        dangling = await client.get('/networks?filters={"dangling":["true"]}')
        assert {one["Name"] for one in dangling} == {"kept", "unused"}
        path = '/networks/prune?filters={"label!":["keep"]}'
        status, answer = await client.ask("POST", path)
        assert (status, answer) == (200, {"NetworksDeleted": ["unused"]})
        names = {one["Name"] for one in await client.get("/networks")}
        assert names == {"used", "kept", "ingress"}
        path = '/networks/prune?filters={"label!":["keep","other"]}'  # it has not both
        status, answer = await client.ask("POST", path)
        assert (status, answer) == (200, {"NetworksDeleted": ["kept"]})


async def test_the_ingress_network_goes_and_comes_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client), deciding(cell):
        spec = service_on()
        spec["EndpointSpec"] = {"Ports": [{"TargetPort": 80}]}
        await created(client, spec)
        status, answer = await client.ask("DELETE", "/networks/ingress")
        assert status == 400
        assert "ingress network cannot be removed because service" in answer["message"]
        assert (await client.ask("DELETE", "/services/web"))[0] == 200
        assert (await client.ask("DELETE", "/networks/ingress"))[0] == 204
        status, answer = await client.ask("POST", "/services/create", spec)
        assert (status, "no ingress network is present" in answer["message"]) == (400, True)
        again = await made(
            client, "mine", Ingress=True, IPAM={"Config": [{"Subnet": "172.30.0.0/16"}]}
        )
        identity = await created(client, spec)
        await until(cell, lambda: bool(service(cell, identity).endpoint.virtual_ips))
        assert service(cell, identity).endpoint.virtual_ips[0].network_id == again
        shown = await client.get("/networks/mine")
        assert (shown["Ingress"], shown["IPAM"]["Config"]) == (
            True,
            [{"Subnet": "172.30.0.0/16"}],
        )
