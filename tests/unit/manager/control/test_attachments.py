from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from manager.control.attachments import Attachments, Wish
from manager.control.writing import Writer
from shoal.common.entropy import SeededIds
from shoal.model.errors import (
    ClusterError,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from shoal.model.ids import NodeID, TaskID
from tests.unit.manager.api.deciding import assigned, deciding
from tests.unit.manager.api.serving import ME, WORKER, Cell, Client, serving

PERSON = "c" * 64


def wish(network: str = "back", container: str = PERSON, **more: Any) -> Wish:
    return Wish(network=network, container_id=container, container_name="alice", **more)


@asynccontextmanager
async def attaching(
    tmp_path: Path,
) -> AsyncIterator[tuple[Cell, Client, Attachments]]:
    """A cluster whose leader decides, with an attachable network `back`."""
    async with serving(tmp_path) as (cell, client), deciding(cell):
        body = {"Name": "back", "Attachable": True, "IPAM": {"Config": [SUBNET]}}
        assert (await client.ask("POST", "/networks/create", body))[0] == 201
        yield cell, client, attachments(cell)


SUBNET = {"Subnet": "10.9.0.0/24"}


def attachments(cell: Cell, patience: float = 5.0) -> Attachments:
    writer = Writer(cell.kv, cell.memory, cell.barrier, SeededIds(11))
    return Attachments(writer, cell.memory, cell.clock, patience=patience)


async def test_a_container_has_a_place_until_it_leaves(tmp_path: Path) -> None:
    async with attaching(tmp_path) as (cell, client, attach):
        task = await attach.attach(WORKER, wish(aliases=("db",)))
        (place,) = task.networks
        assert place.addresses == ("10.9.0.2/24",)
        assert (task.node_id, task.name) == (WORKER, "alice")
        shown = await client.get("/networks/back?verbose=1")
        assert [peer["Name"] for peer in shown["Peers"]] == [WORKER]
        assert shown["Services"] == {}
        assert await client.get("/tasks") == []
        assert await client.get('/tasks?filters={"node":["w1"]}') == []
        status, answer = await client.ask("DELETE", "/networks/back")
        assert (status, answer["message"].endswith("is in use by container alice")) == (
            400,
            True,
        )
        await attach.detach(WORKER, task.id)
        await attach.detach(WORKER, task.id)
        assert cell.memory.task(task.id) is None
        assert (await client.ask("DELETE", "/networks/back"))[0] == 204


async def test_asked_again_by_any_manager_the_place_is_the_same(tmp_path: Path) -> None:
    async with attaching(tmp_path) as (cell, _, attach):
        first = await attach.attach(WORKER, wish())
        again = await attachments(cell).attach(WORKER, wish("back", addresses=("10.9.0.2",)))
        assert (again.id, again.networks) == (first.id, first.networks)
        with pytest.raises(Conflict, match=r"already, with 10\.9\.0\.2: disconnect it first"):
            await attach.attach(WORKER, wish(addresses=("10.9.0.50",)))
        elsewhere = await attach.attach(ME, wish())
        assert elsewhere.id != first.id


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        (wish("nosuch"), NotFound, "network nosuch not found"),
        (wish("closed"), PermissionDenied, "network closed not manually attachable"),
        (wish("ingress"), PermissionDenied, "network ingress not manually attachable"),
        (wish(container=""), InvalidArgument, "named by its id"),
        (wish(addresses=("ten",)), InvalidArgument, "'ten' is not an IP address"),
        (wish(addresses=("10.9.0.5", "10.9.0.6")), InvalidArgument, "more than one IPv4"),
        (wish(addresses=("10.9.0.1",)), FailedPrecondition, "10.9.0.1 .*is reserved"),
        (wish(addresses=("10.8.0.1",)), FailedPrecondition, "is not in subnet 10.9.0.0/24"),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, asked: Wish, error: type[ClusterError], sentence: str
) -> None:
    async with attaching(tmp_path) as (cell, client, attach):
        assert (await client.ask("POST", "/networks/create", {"Name": "closed"}))[0] == 201
        with pytest.raises(error, match=sentence):
            await attach.attach(WORKER, asked)
        assert not cell.memory.attached_tasks()
        assert (await client.ask("DELETE", "/networks/back"))[0] == 204


async def test_only_members_attach_and_only_their_own(tmp_path: Path) -> None:
    async with attaching(tmp_path) as (_, client, attach):
        with pytest.raises(PermissionDenied, match="not a member"):
            await attach.attach(NodeID("stranger"), wish())
        task = await attach.attach(WORKER, wish())
        with pytest.raises(PermissionDenied, match="no container attached by this node"):
            await attach.detach(ME, task.id)
        template = {"ContainerSpec": {"Image": "x"}, "Networks": [{"Target": "back"}]}
        spec = {"Name": "web", "TaskTemplate": template}
        assert (await client.ask("POST", "/services/create", spec))[0] == 201


async def test_a_services_task_is_nobodys_to_detach(tmp_path: Path) -> None:
    async with attaching(tmp_path) as (cell, client, attach):
        spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
        assert (await client.ask("POST", "/services/create", spec))[0] == 201
        (task,) = await assigned(cell, "web", 1)
        with pytest.raises(PermissionDenied):
            await attach.detach(task.node_id or ME, task.id)


async def test_without_a_leader_the_request_says_so_and_may_come_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (cell, client):
        body = {"Name": "back", "Attachable": True}
        assert (await client.ask("POST", "/networks/create", body))[0] == 201
        attach = attachments(cell, patience=0.1)
        with pytest.raises(Unavailable, match="no leader has given"):
            await attach.attach(WORKER, wish())
        async with deciding(cell):
            task = await attach.attach(WORKER, wish())
        assert task.networks


async def test_a_removed_node_takes_its_places_along(tmp_path: Path) -> None:
    async with attaching(tmp_path) as (cell, client, attach):
        task = await attach.attach(WORKER, wish())
        assert (await client.ask("DELETE", "/nodes/w1?force=1"))[0] == 200
        assert cell.memory.task(TaskID(task.id)) is None
        assert (await client.ask("DELETE", "/networks/back"))[0] == 204
