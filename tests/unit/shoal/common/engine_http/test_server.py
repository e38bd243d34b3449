"""What is no request, or too much of one: a 400 in Docker's form, and the server lives on."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer

HOST = b"Host: d\r\nConnection: close\r\n"


async def version(call: Call) -> web.StreamResponse:
    return call.json({"token": len(call.request.headers.get("X-Registry-Auth", ""))})


def router() -> Router:
    table = Router()
    table.add("GET", "/version", version)
    return table


async def say(socket: Path, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(raw)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /version HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\n",
        b"GET /version?\xff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /version HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_in_dockers_form(tmp_path: Path, raw: bytes) -> None:
    async with asyncio.timeout(10), EngineServer(router()) as server:
        await server.serve_unix(tmp_path / "s")
        head, _, body = (await say(tmp_path / "s", raw)).partition(b"\r\n\r\n")
        assert b" 400 " in head.split(b"\r\n")[0]
        assert b"application/json" in head
        assert json.loads(body)["message"].startswith("malformed HTTP request: ")
        plain = b"GET /v1.41/version HTTP/1.1\r\n" + HOST + b"\r\n"
        assert b" 200 OK" in await say(tmp_path / "s", plain)


async def test_long_registry_tokens_pass(tmp_path: Path) -> None:
    async with asyncio.timeout(10), EngineServer(router()) as server:
        await server.serve_unix(tmp_path / "s")
        token = b"X-Registry-Auth: " + b"a" * 20_000
        said = b"GET /version HTTP/1.1\r\n" + HOST + token + b"\r\n\r\n"
        assert b'{"token":20000}' in await say(tmp_path / "s", said)


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/v1.23/version", 400, "client version 1.23 is too old. Minimum supported"),
        ("/v9.99/version", 400, "client version 9.99 is too new. Maximum supported"),
        ("/v1.24/version", 200, "token"),
        ("/version", 200, "token"),
        ("/nope", 404, "page not found"),
        ("/vx/version", 404, "page not found"),
    ],
)
async def test_versions_and_paths(
    tmp_path: Path, path: str, status: int, sentence: str
) -> None:
    async with asyncio.timeout(10), EngineServer(router()) as server:
        await server.serve_unix(tmp_path / "s")
        said = await say(tmp_path / "s", f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        assert f" {status} ".encode() in said.split(b"\r\n")[0]
        assert sentence.encode() in said
        for header in (b"Api-Version: 1.50", b"Ostype: linux", b"Server: Docker/"):
            assert header in said


async def test_unfinished_requests_hold_nobody_up(tmp_path: Path) -> None:
    async with asyncio.timeout(20), EngineServer(router()) as server:
        await server.serve_unix(tmp_path / "s")
        waiting = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(200)]
        for _, writer in waiting:
            writer.write(b"GET /version HTTP/1.1\r\nHost")
        plain = b"GET /version HTTP/1.1\r\n" + HOST + b"\r\n"
        assert b" 200 OK" in await say(tmp_path / "s", plain)
        for _, writer in waiting:
            writer.close()
