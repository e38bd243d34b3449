"""The events of host and cluster as one stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, UnixConnector, web

from agent.api.cluster import ClusterInfo, Lines
from agent.api.events import Events
from agent.engine.events import EventBus
from shoal.common.clock import SystemClock
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.model.errors import ClusterError


def line(name: str, nanos: int) -> bytes:
    return json.dumps({"Type": "service", "name": name, "timeNano": nanos}).encode() + b"\n"


class Manager:
    """Tells its past to whoever asks for it, and what is put into the queue to all others."""

    def __init__(self) -> None:
        self.past: list[bytes] = []
        self.queries: list[Mapping[str, str]] = []
        self.live: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def serve(self, call: Call) -> web.StreamResponse:
        raise NotImplementedError

    async def pass_on(self, call: Call, otherwise: ClusterError) -> web.StreamResponse:
        raise otherwise

    async def info(self) -> ClusterInfo:
        return ClusterInfo({})

    def ping_state(self) -> str:
        return "active/manager"

    @asynccontextmanager
    async def events(self, query: Mapping[str, str]) -> AsyncIterator[Lines | None]:
        self.queries.append(query)
        yield self._past() if "until" in query else self._live()

    async def _past(self) -> AsyncIterator[bytes]:
        for each in self.past:
            yield each

    async def _live(self) -> AsyncIterator[bytes]:
        while (each := await self.live.get()) is not None:
            yield each


@asynccontextmanager
async def told(
    directory: Path, bus: EventBus, manager: Manager, query: str
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    router = Router()
    Events(bus, manager, SystemClock()).add_routes(router)
    async with EngineServer(router) as server:
        await server.serve_unix(directory / "agent.sock")
        connector = UnixConnector(str(directory / "agent.sock"))
        async with (
            ClientSession(connector=connector) as client,
            client.get(f"http://docker/events?{query}") as answer,
        ):
            assert answer.status == 200, await answer.text()
            yield (json.loads(each) async for each in answer.content)


async def test_the_past_of_both_comes_in_order_and_nothing_twice(tmp_path: Path) -> None:
    manager, bus = Manager(), EventBus(SystemClock())
    bus.publish("container", "create", "c1", {"name": "one"})
    nanos = bus.past()[0].nanos
    manager.past = [line("early", nanos - 1), line("late", nanos + 1)]
    async with asyncio.timeout(10), told(tmp_path, bus, manager, "since=1") as events:
        seen = [await anext(events) for _ in range(3)]
        assert [e["timeNano"] - nanos for e in seen] == [-1, 0, 1]
        manager.live.put_nowait(manager.past[1])  # it happened while the past was read
        manager.live.put_nowait(line("now", nanos + 2))
        assert (await anext(events))["name"] == "now"
        bus.publish("container", "start", "c1", {"name": "one"})
        assert (await anext(events))["Action"] == "start"


async def test_the_stream_ends_at_until_and_with_the_manager(tmp_path: Path) -> None:
    manager, bus = Manager(), EventBus(SystemClock())
    bus.publish("volume", "create", "v1", {})
    async with asyncio.timeout(10):
        async with told(tmp_path, bus, manager, "until=9000000000") as events:
            assert (await anext(events))["Actor"]["ID"] == "v1"
            manager.live.put_nowait(None)
            assert [e async for e in events] == []
        async with told(tmp_path, bus, manager, "since=1&until=2") as events:
            assert [e async for e in events] == []


async def test_a_range_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    router = Router()
    Events(EventBus(SystemClock()), Manager(), SystemClock()).add_routes(router)
    async with EngineServer(router) as server:
        await server.serve_unix(tmp_path / "agent.sock")
        connector = UnixConnector(str(tmp_path / "agent.sock"))
        async with ClientSession(connector=connector) as client:
            for query in ("since=5&until=3", "since=foo", "until=1e99"):
                async with client.get(f"http://docker/events?{query}") as answer:
                    assert answer.status == 400
                    assert "since" in (await answer.text()) or "until" in (await answer.text())
