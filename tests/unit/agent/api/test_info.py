"""The cluster's part of `info`: from the manager, or what this host knows by itself."""

from pathlib import Path

from aiohttp import web

from agent.api.cluster import Gateway
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.model.errors import Unavailable
from tests.unit.agent.api.test_elsewhere import Node


async def told(call: Call) -> web.StreamResponse:
    return call.json({"Swarm": {"Nodes": 5, "Error": ""}, "Warnings": ["two managers"]})


async def failing(call: Call) -> web.StreamResponse:
    raise Unavailable(f"no leader for {call.path}")


async def test_a_manager_adds_what_it_knows(tmp_path: Path) -> None:
    socket = tmp_path / "manager.sock"
    gateway = Gateway(socket, Node(manager=True))
    assert "does not answer" in (await gateway.info()).swarm["Error"]
    for handler, expected in (
        (told, ("", 5, ["two managers"])),
        (failing, ("no leader", 0, [])),
    ):
        router = Router()
        router.add("GET", "/internal/info", handler)
        async with EngineServer(router) as server:
            await server.serve_unix(socket)
            found = await gateway.info()
        assert expected[0] in found.swarm["Error"]
        assert (found.swarm.get("Nodes", 0), list(found.warnings)) == expected[1:]
        assert found.swarm["LocalNodeState"] == "active"


async def test_a_worker_asks_nobody(tmp_path: Path) -> None:
    found = await Gateway(tmp_path / "none.sock", Node(manager=False)).info()
    assert (found.swarm["ControlAvailable"], found.warnings) == (False, ())
