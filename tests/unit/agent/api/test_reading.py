"""The read-only socket: what it answers, and that nothing else gets past it."""

from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web
from yarl import URL

from agent.api.reading import refuse_changes
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer

NAMES = ("networks", "volumes", "services", "tasks", "nodes", "secrets")
ANSWERED = (
    *("/_ping", "/version", "/info", "/events", "/system/df", "/v1.44/containers/json"),
    *(f"/containers/web/{what}" for what in ("json", "logs", "stats", "top", "changes")),
    *("/exec/e/json", "/images/json", "/images/reg.example:5000/a/b:1/json"),
    *("/images/a/history", "/services/s/logs", "/tasks/t/logs"),
    *(f"/{name}" for name in NAMES),
    *(f"/{name}/one" for name in NAMES),
)
REFUSED = (
    *("/swarm", "/swarm/unlockkey", "/v1.44/swarm", "//swarm", "/configs", "/configs/c"),
    *(f"/containers/web/{what}" for what in ("export", "archive", "attach/ws")),
    *("/images/get", "/images/a/get", "/distribution/a/json", "/plugins", "/session"),
    *("/services/../swarm", "/services/%2e%2e/swarm", "/services/%2Fswarm"),
    *("/services/s/%2e%2e/%2e%2e/swarm", "/networks/n/connect", "/containers/json/"),
)


async def answer(call: Call) -> web.StreamResponse:
    return call.json({})


async def ask(directory: Path, method: str, path: str) -> int:
    router = Router()
    for known in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        router.add(known, "/{rest*}", answer)
    async with EngineServer(router) as server:
        await server.serve_unix(directory / "s.sock", guard=refuse_changes)
        connector = UnixConnector(str(directory / "s.sock"))
        async with (
            ClientSession(connector=connector) as client,
            client.request(method, URL(f"http://d{path}", encoded=True)) as response,
        ):
            return response.status


@pytest.mark.parametrize("path", ANSWERED)
async def test_what_only_reads_is_answered(tmp_path: Path, path: str) -> None:
    assert await ask(tmp_path, "GET", path) == 200
    assert await ask(tmp_path, "HEAD", path) == 200
    for method in ("POST", "PUT", "DELETE"):
        assert await ask(tmp_path, method, path) == 403


@pytest.mark.parametrize("path", REFUSED)
async def test_what_opens_a_door_or_goes_round_the_list_is_refused(
    tmp_path: Path, path: str
) -> None:
    assert await ask(tmp_path, "GET", path) == 403
