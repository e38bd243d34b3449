"""Nodes, tasks, the cluster, secrets and configs, events through the API."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from manager.ca.authority import ClusterAuthority
from shoal.common.clock import SystemClock
from shoal.model.changes import Update
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import ContainerStatus, Service, Task, TaskStatus
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import NodeRole, NodeState, TaskState
from tests.unit.manager.api.serving import MANAGER2, ME, WORKER, Cell, Client, serving


def service_of(name: str = "web") -> Service:
    return Service(id=ServiceID(name + "s" * (25 - len(name))), spec=ServiceSpec(name=name))


def task_of(
    service: Service, slot: int, node: NodeID, state: TaskState = TaskState.RUNNING
) -> Task:
    return Task(
        id=TaskID(f"t{slot}" + service.id[:23]),
        service_id=service.id,
        spec_version=service.spec_version,
        service_spec=service.spec,
        slot=slot,
        node_id=node,
        status=TaskStatus(
            state=state,
            timestamp=SystemClock().now(),
            container=ContainerStatus(container_id=f"{slot}" * 64, pid=7),
        ),
    )


async def test_tasks_as_docker_prints_them(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        web = service_of()
        await cell.create(web)
        await cell.create(task_of(web, 1, ME), task_of(web, 2, WORKER, TaskState.FAILED))
        first, second = await client.get("/tasks")
        assert (first["Slot"], first["NodeID"], first["DesiredState"]) == (1, ME, "running")
        assert first["Status"]["State"] == "running"
        assert first["Status"]["ContainerStatus"] == {
            "ContainerID": "1" * 64,
            "PID": 7,
            "ExitCode": 0,
        }
        assert second["Status"]["State"] == "failed"
        for filters, slots in (
            ('{"node":["m1"]}', [1]),
            ('{"node":["w1"],"service":["web"]}', [2]),
            ('{"service":{"web":true}}', [1, 2]),
            ('{"desired-state":["shutdown"]}', []),
            ('{"name":["web.2"]}', [2]),
            ('{"id":["t1"]}', [1]),
            ('{"_up-to-date":["true"]}', [1, 2]),
        ):
            found = await client.get(f"/tasks?filters={filters}")
            assert [one["Slot"] for one in found] == slots, filters
        assert (await client.ask("GET", '/tasks?filters={"node":["nope"]}'))[0] == 404
        assert (await client.ask("GET", '/tasks?filters={"desired-state":["x"]}'))[0] == 400
        assert (await client.get(f"/tasks/{first['ID'][:3]}"))["ID"] == first["ID"]
        assert (await client.get(f"/tasks/web.1.{first['ID']}"))["ID"] == first["ID"]
        status, answer = await client.ask("GET", "/tasks/t")
        assert (status, answer["message"]) == (400, "task t is ambiguous (2 matches found)")


async def test_up_to_date_is_what_an_update_would_leave_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
        _, answer = await client.ask("POST", "/services/create", spec)
        service = cell.memory.service(answer["ID"])
        assert service is not None
        await cell.create(task_of(service, 1, ME))
        query = '/tasks?filters={"_up-to-date":["true"]}'
        for change, count in (
            ({**spec, "Mode": {"Replicated": {"Replicas": 2}}}, 1),
            ({**spec, "TaskTemplate": {"ContainerSpec": {"Image": "busybox:2"}}}, 0),
        ):
            version = (await client.get("/services/web"))["Version"]["Index"]
            path = f"/services/web/update?version={version}"
            assert (await client.ask("POST", path, change))[0] == 200
            assert len(await client.get(query)) == count


async def test_nodes_as_docker_prints_them(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        m1, m2, w1 = await client.get("/nodes")
        assert m1["ManagerStatus"] == {
            "Leader": True,
            "Reachability": "reachable",
            "Addr": "10.0.0.1:2377",
        }
        assert "Leader" not in m2["ManagerStatus"]
        assert "ManagerStatus" not in w1
        assert w1["Description"]["Hostname"] == "w1"
        assert w1["Description"]["TLSInfo"]["TrustRoot"].startswith("-----BEGIN")
        assert w1["Status"] == {"State": "ready", "Addr": "10.0.0.1"}
        assert (await client.get("/nodes/w1"))["ID"] == WORKER
        found = await client.get('/nodes?filters={"role":["manager"]}')
        assert [one["ID"] for one in found] == [ME, MANAGER2]


async def change_node(client: Client, name: str, **change: Any) -> tuple[int, Any]:
    node = await client.get(f"/nodes/{name}")
    path = f"/nodes/{node['ID']}/update?version={node['Version']['Index']}"
    return await client.ask("POST", path, {**node["Spec"], **change})


async def test_node_updates(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        assert (await change_node(client, "w1", Availability="drain"))[0] == 200
        assert (await change_node(client, "w1", Labels={"disk": "ssd"}))[0] == 200
        shown = await client.get("/nodes/w1")
        assert shown["Spec"] == {
            "Labels": {"disk": "ssd"},
            "Role": "worker",
            "Availability": "drain",
        }
        assert (await change_node(client, "w1", Availability="gone"))[0] == 400
        assert (await change_node(client, "w1", Role="boss"))[0] == 400
        path = f"/nodes/{WORKER}/update?version=1"
        status, answer = await client.ask("POST", path, shown["Spec"])
        assert (status, "out of sequence" in answer["message"]) == (500, True)


async def test_what_the_leader_writes_refuses_no_user(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        assert (await change_node(client, "w1", Labels={"a": "b"}))[0] == 200
        read = await client.get("/nodes/w1")
        node = cell.memory.node(WORKER)
        assert node is not None
        await cell.write(Update(msgspec.structs.replace(node, role=NodeRole.MANAGER)))
        path = f"/nodes/{WORKER}/update?version={read['Version']['Index']}"
        changed = {**read["Spec"], "Availability": "drain"}
        assert (await client.ask("POST", path, changed))[0] == 200
        assert (await client.ask("POST", path, read["Spec"]))[0] == 500
        after = cell.memory.node(WORKER)
        assert after is not None
        assert (after.role, after.spec.availability) == (NodeRole.MANAGER, "drain")


async def test_the_last_manager_and_the_quorum_stay(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        node = cell.memory.node(MANAGER2)
        assert node is not None
        await cell.write(Update(msgspec.structs.replace(node, state=NodeState.DOWN)))
        status, answer = await change_node(client, "m1", Role="worker")
        assert (status, "loss of quorum" in answer["message"]) == (400, True)
        assert (await change_node(client, "m2", Role="worker"))[0] == 200
        status, answer = await change_node(client, "m1", Role="worker")
        assert (status, "last manager" in answer["message"]) == (400, True)


async def test_node_removal_orphans_its_tasks(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        web = service_of()
        await cell.create(web)
        await cell.create(task_of(web, 1, WORKER), task_of(web, 2, WORKER, TaskState.FAILED))
        status, answer = await client.ask("DELETE", "/nodes/w1")
        assert (status, "is not down" in answer["message"]) == (400, True)
        status, answer = await client.ask("DELETE", "/nodes/m2?force=1")
        assert (status, "demoted" in answer["message"]) == (400, True)
        assert (await client.ask("DELETE", "/nodes/w1?force=1"))[0] == 200
        assert (await client.ask("GET", "/nodes/w1"))[0] == 404
        states = [one["Status"]["State"] for one in await client.get("/tasks")]
        assert states == ["orphaned", "failed"]


async def test_the_cluster_and_its_tokens(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        before = await client.get("/swarm")
        assert before["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
        spec = {**before["Spec"], "Orchestration": {"TaskHistoryRetentionLimit": 3}}
        version = before["Version"]["Index"]
        path = f"/swarm/update?version={version}&rotateWorkerToken=true"
        path += "&rotateManagerToken=false&rotateManagerUnlockKey=false"
        assert (await client.ask("POST", path, spec))[0] == 200
        after = await client.get("/swarm")
        assert after["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 3}
        assert after["JoinTokens"]["Worker"] != before["JoinTokens"]["Worker"]
        assert after["JoinTokens"]["Manager"] == before["JoinTokens"]["Manager"]
        assert (await client.ask("POST", path, spec))[0] == 500
        path = f"/swarm/update?version={after['Version']['Index']}"
        for bad, code in (
            ({**spec, "Name": "other"}, 400),
            ({**spec, "CAConfig": {"NodeCertExpiry": 1}}, 400),
            ({**spec, "CAConfig": {"SigningCACert": "x"}}, 400),
            ({**spec, "CAConfig": {"SigningCACert": "x", "SigningCAKey": "y"}}, 400),
            ({**spec, "CAConfig": {"ExternalCAs": [{"Protocol": "cfssl"}]}}, 501),
        ):
            assert (await client.ask("POST", path, bad))[0] == code
        assert await client.get("/swarm/unlockkey") == {"UnlockKey": ""}
        assert (await client.ask("POST", "/swarm/unlock", {"UnlockKey": "x"}))[0] == 409
        assert (await client.ask("POST", "/swarm/init", {}))[0] == 503


async def test_a_change_of_ca_is_begun_once_and_never_shows_a_key(tmp_path: Path) -> None:
    own = ClusterAuthority.create(SystemClock().now())
    async with serving(tmp_path) as (cell, client):
        before = await client.get("/swarm")

        async def update(**ca: object) -> tuple[int, Any]:
            now = await client.get("/swarm")
            body = {**now["Spec"], "CAConfig": ca}
            path = f"/swarm/update?version={now['Version']['Index']}"
            return await client.ask("POST", path, body)

        pair = {"SigningCACert": own.roots_pem.decode(), "SigningCAKey": own.key_pem.decode()}
        assert (await update(**pair))[0] == 200
        after = await client.get("/swarm")
        assert after["RootRotationInProgress"] is True
        assert after["TLSInfo"]["TrustRoot"] == before["TLSInfo"]["TrustRoot"]
        issuer = "CertIssuerPublicKey"
        assert after["TLSInfo"][issuer] != before["TLSInfo"][issuer]
        assert after["JoinTokens"] == before["JoinTokens"]
        assert "SigningCAKey" not in after["Spec"]["CAConfig"]
        cluster = cell.memory.cluster()
        assert cluster is not None
        assert own.key_pem.decode() not in str(cluster)
        for node in await client.get("/nodes"):
            assert node["Description"]["TLSInfo"][issuer] == before["TLSInfo"][issuer]
        status, answer = await update(ForceRotate=1)
        assert (status, "3 nodes have not followed" in answer["message"]) == (400, True)


async def test_the_unlock_key_comes_with_autolock_is_rotated_and_goes_with_it(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (cell, client):
        spec = (await client.get("/swarm"))["Spec"]

        async def key_after(*, locks: bool, rotate: bool = False) -> str:
            version = (await client.get("/swarm"))["Version"]["Index"]
            path = f"/swarm/update?version={version}"
            path += "&rotateManagerUnlockKey=true" if rotate else ""
            body = {**spec, "EncryptionConfig": {"AutoLockManagers": locks}}
            assert (await client.ask("POST", path, body))[0] == 200
            key: str = (await client.get("/swarm/unlockkey"))["UnlockKey"]
            return key

        first = await key_after(locks=True)
        assert first.startswith("SWMKEY-1-")
        assert await key_after(locks=True) == first
        second = await key_after(locks=True, rotate=True)
        assert second.startswith("SWMKEY-1-")
        assert second != first
        cluster = cell.memory.cluster()
        assert cluster is not None
        assert second.encode() not in cluster.sealed
        assert await key_after(locks=False, rotate=True) == ""


async def test_info_and_leaving(tmp_path: Path) -> None:
    async with serving(tmp_path, patience=0.2) as (cell, client):
        info = await client.get("/internal/info")
        assert info["Swarm"]["NodeID"] == ME
        assert (info["Swarm"]["Nodes"], info["Swarm"]["Managers"]) == (3, 2)
        assert info["Swarm"]["ControlAvailable"] is True
        assert "two-manager" in info["Warnings"][0]
        assert (await client.ask("POST", "/swarm/leave?force=1"))[0] == 200
        assert cell.membership.forced == [True]
        cell.kv.reachable = False
        info = await client.get("/internal/info")
        assert "does not have a leader" in info["Swarm"]["Error"]


async def test_secrets_and_configs(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        for kind in ("secrets", "configs"):
            spec = {"Name": "x", "Labels": {"a": "1"}, "Data": "aGVsbG8="}
            status, answer = await client.ask("POST", f"/{kind}/create", spec)
            assert status == 201
            assert (await client.ask("POST", f"/{kind}/create", spec))[0] == 409
            shown = await client.get(f"/{kind}/x")
            assert shown["ID"] == answer["ID"]
            assert shown["Spec"].get("Data") == (None if kind == "secrets" else "aGVsbG8=")
            path = f"/{kind}/x/update?version={shown['Version']['Index']}"
            assert (await client.ask("POST", path, {**spec, "Data": "Ym8="}))[0] == 400
            assert (await client.ask("POST", path, {**spec, "Labels": {}}))[0] == 200
            assert (await client.get(f"/{kind}"))[0]["Spec"]["Labels"] == {}
            assert (await client.ask("DELETE", f"/{kind}/x"))[0] == 204
            status, answer = await client.ask("DELETE", f"/{kind}/x")
            assert (status, answer["message"]) == (404, f"{kind[:-1]} x not found")
            bad = {"Name": "-", "Data": "aGVsbG8="}
            assert (await client.ask("POST", f"/{kind}/create", bad))[0] == 400
            assert (await client.ask("POST", f"/{kind}/create", {"Name": "x"}))[0] == 400


async def read_events(client: Client, query: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with client.session.get(f"http://docker/events{query}") as answer:
        assert answer.status == 200
        while len(found) < count:
            found.append(msgspec.json.decode(await answer.content.readline()))
    return found


async def make_and_scale(client: Client, cell: Cell) -> None:
    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    _, answer = await client.ask("POST", "/services/create", spec)
    service = cell.memory.service(answer["ID"])
    assert service is not None
    await cell.create(task_of(service, 1, ME))
    version = (await client.get("/services/web"))["Version"]["Index"]
    spec["Mode"] = {"Replicated": {"Replicas": 3}}
    await client.ask("POST", f"/services/web/update?version={version}", spec)
    await change_node(client, "w1", Availability="drain")
    await client.ask("DELETE", "/services/web")


async def test_events_live_and_again(tmp_path: Path) -> None:
    expected = [
        ("service", "create", {"name": "web"}),
        ("service", "update", {"name": "web", "replicas.old": "1", "replicas.new": "3"}),
        (
            "node",
            "update",
            {"name": "w1", "availability.old": "active", "availability.new": "drain"},
        ),
        ("service", "remove", {"name": "web"}),
    ]
    async with asyncio.timeout(10), serving(tmp_path) as (cell, client):
        async with asyncio.TaskGroup() as group:
            live = group.create_task(read_events(client, "", 4))
            await make_and_scale(client, cell)
        again = await read_events(client, "?since=10m", 4)
        assert live.result() == again
        shown = [(e["Type"], e["Action"], e["Actor"]["Attributes"]) for e in again]
        assert shown == expected
        (only,) = await read_events(client, '?since=1&filters={"type":["node"]}', 1)
        assert (only["Type"], only["scope"]) == ("node", "swarm")
        async with client.session.get("http://docker/events?since=1&until=0s") as answer:
            assert len((await answer.read()).splitlines()) == 4
        assert (await client.ask("GET", "/events?since=yesterday"))[0] == 400
