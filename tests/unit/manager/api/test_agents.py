"""Logs of services and tasks, and requests passed on, over stand-ins for agents."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from manager.api.log_lines import Splitter
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.frames import STDERR, STDOUT, SYSTEM_ERROR, frame
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.model.changes import Delete, Update
from shoal.model.errors import NotFound
from shoal.model.ids import NodeID
from shoal.model.states import TaskState
from tests.unit.manager.api.serving import ME, WORKER, Cell, Client, serving
from tests.unit.manager.api.test_cluster import service_of, task_of

PLAIN = "c" * 64
"""A container that is no task's, on the worker."""


class Agent:
    """Says what a real agent would, of a few containers."""

    def __init__(self, containers: dict[str, list[tuple[int, str]]]) -> None:
        self.containers = containers
        self.asked: list[str] = []
        self.more = asyncio.Event()
        self.cut = False

    def router(self) -> Router:
        router = Router()
        router.add("GET", "/containers/{id}/json", self.inspect)
        router.add("GET", "/containers/{id}/logs", self.logs, stream=True)
        router.add("POST", "/containers/{id}/exec", self.make_exec)
        router.add("GET", "/exec/{id}/json", self.inspect_exec)
        router.add("POST", "/exec/{id}/start", self.start_exec, stream=True)
        return router

    def _known(self, call: Call) -> str:
        identity = call.parts["id"]
        if identity not in self.containers:
            raise NotFound(f"No such container: {identity}")
        return identity

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.json({"Id": self._known(call)})

    async def logs(self, call: Call) -> web.StreamResponse:
        self.asked.append(str(call.request.rel_url.query_string))
        lines = self.containers[self._known(call)]
        stream = await call.stream("application/vnd.docker.multiplexed-stream")
        told = 0
        while True:
            for where, line in lines[told:]:
                await stream.write(frame(where, line.encode()))
            told = len(lines)
            if self.cut:
                self.cut = False
                assert call.request.transport is not None
                call.request.transport.abort()
                return stream.response
            if not call.flag("follow"):
                return stream.response
            await self.more.wait()
            self.more.clear()

    async def make_exec(self, call: Call) -> web.StreamResponse:
        return call.json({"Id": "e1", "Got": (await call.raw_body()).decode()}, 201)

    async def inspect_exec(self, call: Call) -> web.StreamResponse:
        if call.parts["id"] != "e1":
            raise NotFound("No such exec instance")
        return call.json({"ID": "e1"})

    async def start_exec(self, call: Call) -> web.StreamResponse:
        await call.raw_body()
        connection = call.hijack(terminal=True)
        heard = b""
        while piece := await connection.read():
            heard += piece
        await connection.write(b"heard " + heard)
        connection.write_eof()
        return connection.close()


@asynccontextmanager
async def with_agents(directory: Path, **agents: Agent) -> AsyncIterator[tuple[Cell, Client]]:
    nodes = {"m1": ME, "w1": WORKER}
    async with AsyncExitStack() as stack:
        cell, client = await stack.enter_async_context(serving(directory))
        for name, agent in agents.items():
            server = await stack.enter_async_context(EngineServer(agent.router()))
            await server.serve_unix(directory / f"{name}.sock")
            cell.doors.sockets[nodes[name]] = directory / f"{name}.sock"
        yield cell, client


async def place(cell: Cell, *nodes: NodeID) -> None:
    web_service = service_of()
    await cell.create(web_service)
    await cell.create(*(task_of(web_service, i + 1, node) for i, node in enumerate(nodes)))


async def read_lines(client: Client, path: str, count: int | None) -> list[tuple[int, str]]:
    """So many lines, or all there are."""
    splitter, found = Splitter(terminal=False), []
    async with client.session.get(f"http://docker{path}") as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
        async for data in answer.content.iter_any():
            found += [(stream, line.decode()) for stream, line in splitter.feed(data)]
            if count is not None and len(found) >= count:
                break
    return found


def at(second: int) -> str:
    return f"2026-11-24T10:00:{second:02}.000000000Z"


async def test_lines_of_all_tasks_with_details(tmp_path: Path) -> None:
    m1 = Agent({"1" * 64: [(STDOUT, f"{at(1)} one\n"), (STDERR, f"{at(3)} three\n")]})
    w1 = Agent({"2" * 64: [(STDOUT, f"{at(2)} two\n")]})
    async with with_agents(tmp_path, m1=m1, w1=w1) as (cell, client):
        await place(cell, ME, WORKER)
        path = "/services/web/logs?stdout=1&stderr=1&tail=5"
        plain = await read_lines(client, path, None)
        assert sorted(plain) == [(STDOUT, "one\n"), (STDOUT, "two\n"), (STDERR, "three\n")]
        assert "tail=5" in m1.asked[0]
        full = await read_lines(client, f"{path}&details=1&timestamps=1", None)
        service = service_of()
        task = task_of(service, 2, WORKER)
        details = (
            f"com.docker.swarm.node.id={WORKER},com.docker.swarm.service.id={service.id},"
            f"com.docker.swarm.task.id={task.id}"
        )
        assert (STDOUT, f"{at(2)} {details} two\n") in full
        only = await read_lines(client, f"/tasks/{task.id}/logs?stdout=1", None)
        assert only == [(STDOUT, "two\n")]


async def test_what_is_missing_is_told_at_the_end(tmp_path: Path) -> None:
    m1 = Agent({"1" * 64: [(STDOUT, f"{at(1)} one\n")]})
    async with with_agents(tmp_path, m1=m1) as (cell, client):
        await place(cell, ME, WORKER)
        found = await read_lines(client, "/services/web/logs?stdout=1", None)
        assert found[0] == (STDOUT, "one\n")
        assert found[1][0] == SYSTEM_ERROR
        assert "incomplete log stream" in found[1][1]
        assert WORKER in found[1][1]
        assert (await client.ask("GET", "/services/web/logs"))[0] == 400
        assert (await client.ask("GET", "/services/nope/logs?stdout=1"))[0] == 404


async def test_following_takes_in_new_tasks_and_goes_on_after_a_break(tmp_path: Path) -> None:
    lines = [(STDOUT, f"{at(1)} one\n")]
    m1, w1 = Agent({"1" * 64: lines}), Agent({"2" * 64: [(STDOUT, f"{at(5)} new\n")]})
    async with asyncio.timeout(10), with_agents(tmp_path, m1=m1, w1=w1) as (cell, client):
        await place(cell, ME)
        async with asyncio.TaskGroup() as group:
            path = "/services/web/logs?stdout=1&follow=1"
            reading = group.create_task(read_lines(client, path, 4))
            await until(lambda: len(m1.asked) == 1)
            await cell.create(task_of(service_of(), 2, WORKER))
            await until(lambda: len(w1.asked) == 1)
            lines.append((STDOUT, f"{at(2)} two\n"))
            m1.cut = True
            m1.more.set()
            await until(lambda: len(m1.asked) == 2)
            lines.append((STDOUT, f"{at(3)} three\n"))
            m1.more.set()
        found = [line for _, line in reading.result()]
        assert sorted(found) == ["new\n", "one\n", "three\n", "two\n"]
        assert "since=2026" in m1.asked[1]


async def test_following_a_service_ends_with_it(tmp_path: Path) -> None:
    m1 = Agent({"1" * 64: [(STDOUT, f"{at(1)} one\n")]})
    async with asyncio.timeout(10), with_agents(tmp_path, m1=m1) as (cell, client):
        service = service_of()
        await cell.create(service)
        task = task_of(service, 1, ME, TaskState.COMPLETE)
        await cell.create(task)
        async with asyncio.TaskGroup() as group:
            path = "/services/web/logs?stdout=1&follow=1"
            reading = group.create_task(read_lines(client, path, None))
            await until(lambda: len(m1.asked) == 1)
            await cell.write(Delete(cell.memory.service(service.id)))  # type: ignore[arg-type]
            m1.containers["1" * 64] = []
            m1.cut = True
            m1.more.set()
            found = cell.memory.task(task.id)
            assert found is not None
            await cell.write(Update(msgspec.structs.replace(found, slot=2)))
        assert reading.result()[0] == (STDOUT, "one\n")


async def until(true: Callable[[], bool]) -> None:
    """Until it holds; the test's deadline ends it."""
    while not true():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.005)


async def test_requests_go_to_the_host_of_a_container(tmp_path: Path) -> None:
    m1, w1 = Agent({"1" * 64: []}), Agent({"2" * 64: [], PLAIN: []})
    async with with_agents(tmp_path, m1=m1, w1=w1) as (cell, client):
        await place(cell, ME, WORKER)
        for text, identity in (("2" * 64, "2" * 64), (PLAIN, PLAIN)):
            assert await client.get(f"/v1.44/containers/{text}/json") == {"Id": identity}
        status, answer = await client.ask("GET", "/containers/none/json")
        assert (status, answer["message"]) == (404, "No such container: none")
        for hostile in ("%ff%fe", "x%0d%0aX-Y:%20z", "a%20b", "%00"):
            status, answer = await client.ask("GET", f"/containers/{hostile}/json")
            assert status == 404
            assert answer["message"].startswith("No such container: ")
        hop = {"X-Shoal-Hop": "manager"}
        assert (await client.ask("GET", f"/containers/{PLAIN}/json", headers=hop))[0] == 404
        status, answer = await client.ask("POST", f"/containers/{PLAIN}/exec", {"Cmd": ["x"]})
        assert (status, answer) == (201, {"Id": "e1", "Got": '{"Cmd":["x"]}'})
        assert (await client.ask("GET", "/exec/nope/json"))[0] == 404


async def test_a_taken_over_connection_passes_both_ways(tmp_path: Path) -> None:
    w1 = Agent({PLAIN: []})
    async with asyncio.timeout(10), with_agents(tmp_path, w1=w1) as (_, _client):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "manager.sock")
        writer.write(
            b"POST /v1.50/exec/e1/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
            b"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 UPGRADED")
        writer.write(b"hello ")
        writer.write(b"there")
        writer.write_eof()
        assert await reader.read() == b"heard hello there"
        writer.close()


def test_terminal_output_is_split_at_line_ends() -> None:
    splitter = Splitter(terminal=True)
    found: list[Any] = [*splitter.feed(b"a b\r\nc"), *splitter.feed(b" d\ne")]
    assert found == [(STDOUT, b"a b\r\n"), (STDOUT, b"c d\n")]
    assert list(splitter.rest()) == [(STDOUT, b"e")]
