"""Requests for containers of other hosts, over a stand-in for the manager of this one."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web

from agent.api.cluster import Gateway
from agent.api.elsewhere import ContainerRouter
from agent.swarm import JoinRequest
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.model.assignment import Assignments
from shoal.model.errors import NotFound


class Node:
    """A manager node or a worker, as it is told to be."""

    def __init__(self, *, manager: bool) -> None:
        self.manager = manager

    async def init(self, body: bytes) -> tuple[int, bytes]:
        raise NotImplementedError

    async def join(self, request: JoinRequest) -> None:
        raise NotImplementedError

    async def leave(self, *, force: bool) -> None:
        raise NotImplementedError

    def section(self) -> dict[str, Any]:
        return {"ControlAvailable": self.manager, "NodeID": "n", "LocalNodeState": "active"}

    def told(self) -> Assignments:
        return Assignments()


def find(text: str) -> object:
    if text != "here":
        raise NotFound(f"No such container: {text}")
    return text


async def answer_here(call: Call) -> web.StreamResponse:
    return call.json({"here": call.parts["id"]})


async def count(call: Call) -> web.StreamResponse:
    size = 0
    async for chunk in call.request.content.iter_chunked(1 << 16):
        size += len(chunk)
    return call.json({"elsewhere": call.parts["id"], "bytes": size})


async def echo(call: Call) -> web.StreamResponse:
    if call.parts["id"] == "none":
        raise NotFound("No such exec instance: none")
    connection = call.hijack(terminal=True)
    while data := await connection.read():
        await connection.write(data.upper())
    await connection.write(b" end")
    return connection.close()


@asynccontextmanager
async def serving(directory: Path, *, manager: bool) -> AsyncIterator[Path]:
    """This host's socket, and its manager's behind it."""
    beyond = Router()
    beyond.add("PUT", "/containers/{id}/archive", count)
    beyond.add("GET", "/containers/{id}/json", count)
    beyond.add("POST", "/exec/{id}/start", echo, stream=True)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EngineServer(beyond))
        await server.serve_unix(directory / "manager.sock")
        gateway = Gateway(directory / "manager.sock", Node(manager=manager))
        router = ContainerRouter(find, find, gateway)
        router.add("GET", "/containers/{id}/json", answer_here)
        router.add("PUT", "/containers/{id}/archive", answer_here)
        router.add("POST", "/exec/{id}/start", answer_here, stream=True)
        agent = await stack.enter_async_context(EngineServer(router))
        await agent.serve_unix(directory / "agent.sock")
        yield directory / "agent.sock"


async def ask(
    socket: Path, method: str, path: str, headers: Mapping[str, str] | None = None, **said: Any
) -> tuple[int, Any]:
    async with (
        ClientSession(connector=UnixConnector(str(socket))) as client,
        client.request(method, f"http://docker{path}", headers=headers, **said) as answer,
    ):
        return answer.status, await answer.json()


async def test_what_is_here_is_answered_here(tmp_path: Path) -> None:
    async with serving(tmp_path, manager=True) as socket:
        assert await ask(socket, "GET", "/v1.50/containers/here/json") == (
            200,
            {"here": "here"},
        )
        far = (200, {"elsewhere": "far", "bytes": 0})
        assert await ask(socket, "GET", "/v1.50/containers/far/json") == far


@pytest.mark.parametrize("manager", [True, False])
async def test_no_request_goes_further_than_it_may(tmp_path: Path, manager: bool) -> None:
    hop = {"X-Shoal-Hop": "manager"} if manager else {}
    async with serving(tmp_path, manager=manager) as socket:
        status, answer = await ask(socket, "GET", "/containers/far/json", hop)
        assert (status, answer["message"]) == (404, "No such container: far")


async def test_large_bodies_are_streamed(tmp_path: Path) -> None:
    async with serving(tmp_path, manager=True) as socket:
        size = 9 << 20
        status, answer = await ask(
            socket, "PUT", "/containers/far/archive?path=/", data=io.BytesIO(b"x" * size)
        )
        assert (status, answer["bytes"]) == (200, size)


@pytest.mark.parametrize("hop", [False, True])
async def test_taken_over_connections_keep_half_close(tmp_path: Path, hop: bool) -> None:
    async with asyncio.timeout(10), serving(tmp_path, manager=True) as agent:
        socket = tmp_path / "manager.sock" if hop else agent
        reader, writer = await asyncio.open_unix_connection(socket)
        extra = b"X-Shoal-Hop: manager\r\n" if hop else b""
        writer.write(
            b"POST /v1.50/exec/far/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
            b"Upgrade: tcp\r\nContent-Length: 0\r\n" + extra + b"\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 UPGRADED")
        if hop:
            writer.write(b"\0\0\0\5hello\0\0\0\0")
        else:
            writer.write(b"hello")
            writer.write_eof()
        assert await reader.read() == b"HELLO end"
        writer.close()


async def test_refused_takeover_ends_the_connection(tmp_path: Path) -> None:
    async with asyncio.timeout(10), serving(tmp_path, manager=True) as socket:
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(
            b"POST /v1.50/exec/none/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
            b"Upgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        whole = await reader.read()
        assert whole.startswith(b"HTTP/1.1 404")
        assert b"No such exec instance" in whole
        writer.close()
