import asyncio
from pathlib import Path
from typing import Any

import msgspec

from manager.control.credentials import registry_auth_of
from shoal.model.changes import Update
from shoal.model.ids import ServiceID
from shoal.model.objects import UpdateStatus
from shoal.model.states import UpdateState
from tests.unit.manager.api.serving import Cell, Client, serving


def body(name: str = "web", **more: Any) -> dict[str, Any]:
    template = {"ContainerSpec": {"Image": "busybox"}}
    return {"Name": name, "TaskTemplate": template, **more}


def published(port: int, mode: str = "ingress") -> dict[str, Any]:
    return {"Ports": [{"TargetPort": 80, "PublishedPort": port, "PublishMode": mode}]}


async def created(client: Client, spec: dict[str, Any]) -> str:
    status, answer = await client.ask("POST", "/v1.50/services/create", spec)
    assert status == 201, answer
    identity: str = answer["ID"]
    return identity


async def test_a_service_is_there_at_once_with_defaults_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        identity = await created(client, body(EndpointSpec=published(8080)))
        shown = await client.get("/v1.50/services/web")
        assert shown["ID"] == identity
        assert shown["Spec"]["Mode"] == {"Replicated": {"Replicas": 1}}
        assert shown["Endpoint"]["Ports"][0]["PublishedPort"] == 8080
        assert shown["Endpoint"]["Ports"][0]["Protocol"] == "tcp"
        assert "UpdateConfig" not in shown["Spec"]
        full = await client.get("/services/web?insertDefaults=true")
        assert full["Spec"]["UpdateConfig"]["Parallelism"] == 1
        assert full["Spec"]["TaskTemplate"]["RestartPolicy"]["Condition"] == "any"
        assert full["Spec"]["TaskTemplate"]["Placement"] == {}
        assert full["Spec"]["TaskTemplate"]["ContainerSpec"]["DNSConfig"] == {}


async def test_blocks_that_are_begun_are_completed(tmp_path: Path) -> None:
    """As Docker does by its enumerations: a block that is given has all its words."""
    template = {"ContainerSpec": {"Image": "a"}, "RestartPolicy": {"Delay": 5}}
    async with serving(tmp_path) as (_, client):
        await created(client, body(UpdateConfig={"Parallelism": 2}, TaskTemplate=template))
        spec = (await client.get("/services/web"))["Spec"]
        update = spec["UpdateConfig"]
        assert (update["FailureAction"], update["Order"]) == ("pause", "stop-first")
        policy = spec["TaskTemplate"]["RestartPolicy"]
        assert policy == {"Condition": "any", "Delay": 5, "MaxAttempts": 0}
        full = (await client.get("/services/web?insertDefaults=1"))["Spec"]
        assert full["UpdateConfig"]["Monitor"] == 5_000_000_000


async def test_keys_in_any_case_nulls_and_unknown_keys(tmp_path: Path) -> None:
    spec = {
        "name": "web",
        "tasktemplate": {"containerspec": {"image": "busybox"}, "resources": None},
        "mode": {"replicated": {"replicas": 4}},
        "whatever": 1,
    }
    async with serving(tmp_path) as (_, client):
        await created(client, spec)
        shown = await client.get("/services/web")
        assert shown["Spec"]["Mode"] == {"Replicated": {"Replicas": 4}}


async def test_a_service_without_a_name_gets_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await created(client, body(""))
        (only,) = await client.get("/services")
        assert "_" in only["Spec"]["Name"]


async def test_names_and_ports_clash(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        identity = await created(client, body(EndpointSpec=published(8080)))
        status, answer = await client.ask("POST", "/services/create", body())
        assert status == 409
        assert answer["message"] == (
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object:"
            " service web already exists"
        )
        for mode in ("ingress", "host"):
            second = body("second", EndpointSpec=published(8080, mode))
            status, answer = await client.ask("POST", "/services/create", second)
            assert status == 400
            assert answer["message"] == (
                "rpc error: code = InvalidArgument desc = port '8080' is already in use by"
                f" service 'web' ({identity}) as an ingress port"
            )


async def test_two_writers_at_once_get_one_name_and_one_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        cell.etcd.faults.request = (0.0, 0.01)
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(
                    client.ask("POST", "/services/create", body(EndpointSpec=published(80)))
                )
                for _ in range(5)
            ]
        statuses = sorted(one.result()[0] for one in asked)
        assert statuses == [201, 409, 409, 409, 409]


async def updated(
    client: Client, spec: dict[str, Any], version: int, query: str = ""
) -> tuple[int, Any]:
    path = f"/services/{spec['Name']}/update?version={version}{query}"
    return await client.ask("POST", path, spec)


async def test_update_keeps_the_spec_before_and_refuses_stale_versions(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        identity = await created(client, body())
        first = await client.get("/services/web")
        version = first["Version"]["Index"]
        changed = body(Mode={"Replicated": {"Replicas": 3}})
        assert await updated(client, changed, version) == (200, {"Warnings": None})
        second = await client.get("/services/web")
        assert second["PreviousSpec"] == first["Spec"]
        assert second["Version"]["Index"] > version
        service = cell.memory.service(ServiceID(identity))
        assert service is not None
        assert service.spec_version == 2
        status, answer = await updated(client, changed, version)
        assert status == 500
        assert answer["message"] == "rpc error: code = Unknown desc = update out of sequence"
        status, answer = await updated(client, changed, version + 10_000)
        assert status == 500


async def test_what_the_leader_writes_refuses_no_update(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        identity = await created(client, body())
        version = (await client.get("/services/web"))["Version"]["Index"]
        await set_status(cell, identity)
        changed = body(Mode={"Replicated": {"Replicas": 3}})
        status, answer = await updated(client, changed, version)
        assert status == 200, answer
        shown = await client.get("/services/web")
        assert "UpdateStatus" not in shown


async def set_status(cell: Cell, identity: str) -> None:
    service = cell.memory.service(ServiceID(identity))
    assert service is not None
    status = UpdateStatus(state=UpdateState.PAUSED, started_at=cell.clock.now())
    await cell.write(Update(msgspec.structs.replace(service, update_status=status)))


async def test_rollback_goes_back_and_forth(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await created(client, body())
        first = await client.get("/services/web")
        version = first["Version"]["Index"]
        status, answer = await updated(client, body(), version, "&rollback=previous")
        assert status == 400
        assert "does not have a previous spec" in answer["message"]
        await updated(client, body(Mode={"Replicated": {"Replicas": 3}}), version)
        second = await client.get("/services/web")
        version = second["Version"]["Index"]
        assert (await updated(client, second["Spec"], version, "&rollback=none"))[0] == 200
        version = (await client.get("/services/web"))["Version"]["Index"]
        query = "&rollback=previous&registryAuthFrom=previous-spec"
        assert (await updated(client, second["Spec"], version, query))[0] == 200
        third = await client.get("/services/web")
        assert third["Spec"] == first["Spec"]
        assert third["PreviousSpec"] == second["Spec"]
        assert third["UpdateStatus"]["State"] == "rollback_started"


async def test_name_and_mode_stay(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        identity = await created(client, body())
        version = (await client.get("/services/web"))["Version"]["Index"]
        for spec, field in ((body("new"), "Name"), (body(Mode={"Global": {}}), "Mode")):
            path = f"/services/{identity}/update?version={version}"
            status, answer = await client.ask("POST", path, spec)
            assert status == 501
            assert field in answer["message"]


async def test_lists_filter_and_count(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await created(client, body("web", Labels={"a": "1"}))
        await created(client, body("worker", Mode={"Global": {}}))
        assert len(await client.get("/services")) == 2
        for filters, expected in (
            ('{"name":{"we":true}}', ["web"]),
            ('{"label":["a=1"]}', ["web"]),
            ('{"label":["a=2"]}', []),
            ('{"mode":{"global":true}}', ["worker"]),
            ('{"name":{"w":true}}', ["web", "worker"]),
        ):
            found = await client.get(f"/services?filters={filters}")
            assert sorted(one["Spec"]["Name"] for one in found) == expected
        (status, _), (bad, _) = (
            await client.ask("GET", '/services?filters={"x":["y"]}'),
            await client.ask("GET", '/services?filters={"mode":["y"]}'),
        )
        assert (status, bad) == (400, 400)
        (counted,) = await client.get('/services?status=true&filters={"name":["web"]}')
        assert counted["ServiceStatus"] == {
            "RunningTasks": 0,
            "DesiredTasks": 1,
            "CompletedTasks": 0,
        }


async def test_remove_frees_name_and_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await created(client, body(EndpointSpec=published(8080)))
        assert (await client.ask("DELETE", "/services/web"))[0] == 200
        status, answer = await client.ask("DELETE", "/services/web")
        assert (status, answer["message"]) == (404, "service web not found")
        await created(client, body(EndpointSpec=published(8080)))


async def test_an_update_moves_ports(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        await created(client, body(EndpointSpec=published(8080)))
        version = (await client.get("/services/web"))["Version"]["Index"]
        changed = body(EndpointSpec=published(9090))
        assert (await updated(client, changed, version))[0] == 200
        await created(client, body("second", EndpointSpec=published(8080)))
        status, _ = await client.ask(
            "POST", "/services/create", body("third", EndpointSpec=published(9090))
        )
        assert status == 400


async def test_without_a_quorum_503_but_local_reads(tmp_path: Path) -> None:
    async with serving(tmp_path, patience=0.2) as (cell, client):
        await created(client, body())
        cell.kv.reachable = False
        status, answer = await client.ask("GET", "/services")
        assert status == 503
        assert "does not have a leader" in answer["message"]
        assert (await client.ask("POST", "/services/create", body("b")))[0] == 503
        local = {"X-Shoal-Read": "local"}
        status, found = await client.ask("GET", "/services", headers=local)
        assert (status, len(found)) == (200, 1)


async def test_bad_bodies_leave_nothing(tmp_path: Path) -> None:
    bad: list[Any] = [
        b"",
        b"{",
        b"[]",
        b'{"Name": 5}',
        b'{"Name":"a"} x',
        body(Mode={"Replicated": {"Replicas": -1}}),
        body(Mode={"Replicated": {"Replicas": 10**30}}),
        body(Mode={"Replicated": {"Replicas": "many"}}),
        body(Mode={"Replicated": {}, "Global": {}}),
        body("bad name"),
        body("a" * 64),
        body(TaskTemplate={}),
        body(Labels={"big": "x" * (1 << 20)}),
    ]
    async with serving(tmp_path) as (_, client):
        for one in bad:
            status, answer = await client.ask("POST", "/services/create", one)
            assert status == 400, one
            assert answer["message"]
        status, _ = await client.ask("POST", "/services/create", b"x" * (5 << 20))
        assert status == 400
        assert await client.get("/services") == []
        assert (await client.ask("POST", "/services/web/update", body()))[0] == 400


async def test_registry_credentials_are_kept_sealed(tmp_path: Path) -> None:
    header = {"X-Registry-Auth": "eyJ1c2VybmFtZSI6ICJhIn0="}
    async with serving(tmp_path) as (cell, client):
        status, answer = await client.ask("POST", "/services/create", body(), header)
        assert status == 201
        service = cell.memory.service(ServiceID(answer["ID"]))
        assert service is not None
        assert registry_auth_of(cell.sealer, service) == header["X-Registry-Auth"]
        assert b"eyJ1" not in service.registry_auth
        wrong = {"X-Registry-Auth": "!!"}
        assert (await client.ask("POST", "/services/create", body("b"), wrong))[0] == 400
