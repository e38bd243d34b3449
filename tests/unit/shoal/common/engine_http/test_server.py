"""What is no request, or too much of one: a 400 in Docker's form, and the server lives on."""

import asyncio
import json
import socket
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
        ("/v1.51/version", 400, "client version 1.51 is too new. Maximum supported API"),
        (f"/v{'9' * 5000}.1/version", 404, "page not found"),
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


async def echo(call: Call) -> web.StreamResponse:
    return call.json({"size": len(await call.raw_body(limit=1000))})


async def breaking(call: Call) -> web.StreamResponse:
    stream = await call.stream("application/json")
    await stream.write(b"{}")
    raise ValueError("after the answer has begun")


@pytest.mark.parametrize(
    ("head", "body", "sentence"),
    [
        (b"Content-Length: 104857600", b"", b"too large: the limit is 1000 bytes"),
        (b"Transfer-Encoding: chunked", b"5dc\r\n" + b"x" * 1500 + b"\r\n", b"too large"),
        (b"Content-Encoding: gzip\r\nContent-Length: 2", b"{}", b'{"size":2}'),
    ],
)
async def test_a_body_is_what_was_sent_within_bounds(
    tmp_path: Path, head: bytes, body: bytes, sentence: bytes
) -> None:
    table = router()
    table.add("POST", "/echo", echo)
    async with asyncio.timeout(10), EngineServer(table) as server:
        await server.serve_unix(tmp_path / "s")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"POST /echo HTTP/1.1\r\n" + HOST + head + b"\r\n\r\n" + body)
        said = await reader.readuntil(b"\r\n\r\n") + await reader.read(200)
        assert sentence in said
        writer.close()


async def test_an_answer_that_has_begun_breaks_off(tmp_path: Path) -> None:
    table = router()
    table.add("GET", "/breaking", breaking, stream=True)
    async with asyncio.timeout(10), EngineServer(table) as server:
        await server.serve_unix(tmp_path / "s")
        said = await say(tmp_path / "s", b"GET /breaking HTTP/1.1\r\n" + HOST + b"\r\n")
        assert said.count(b"HTTP/1.1") == 1
        assert b"{}" in said
        assert not said.endswith(b"0\r\n\r\n")


async def greet(call: Call) -> web.StreamResponse:
    connection = call.hijack(terminal=True)
    await connection.write(b"hello")
    return connection.close()


async def test_a_client_can_read_the_head_by_itself(tmp_path: Path) -> None:
    """docker-py reads it through a buffer, and what follows from the bare socket."""
    table = Router()
    table.add("POST", "/attach", greet, stream=True)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10), EngineServer(table) as server:
        await server.serve_unix(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            await loop.sock_connect(client, str(tmp_path / "s"))
            upgrade = b"Host: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            await loop.sock_sendall(client, b"POST /attach HTTP/1.1\r\n" + upgrade)
            head = await loop.sock_recv(client, 1 << 16)
            assert head.startswith(b"HTTP/1.1 101 UPGRADED")
            assert head.endswith(b"\r\n\r\n")
            assert await loop.sock_recv(client, 1 << 16) == b"hello"
