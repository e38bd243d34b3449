"""`/events`: what happened on this host and, on a manager, in the cluster, as one stream.

The last 256 happenings of each are told again, in the order of their instants, to a client that
names one. A stream ends when either half is cut off: its client asks again with `since`.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

import aiohttp
import msgspec
import structlog
from aiohttp import web

from agent.api.cluster import Cluster, Lines
from agent.engine.events import FILTERS, Event, EventBus, Subscription, matches
from shoal.common.clock import Clock
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.instants import nanoseconds, parse_range
from shoal.common.engine_http.query import Filters
from shoal.common.engine_http.router import Router

log = structlog.get_logger(__name__)

Told = tuple[int, bytes]
"""An instant in nanoseconds, and the line that tells it."""


class _Instant(msgspec.Struct, rename={"nanos": "timeNano"}):
    nanos: int


class Events:
    """The handler of events."""

    def __init__(self, bus: EventBus, cluster: Cluster, clock: Clock) -> None:
        self._bus = bus
        self._cluster = cluster
        self._clock = clock

    def add_routes(self, router: Router) -> None:
        router.add("GET", "/events", self.stream, stream=True)

    async def stream(self, call: Call) -> web.StreamResponse:
        filters = call.filters(FILTERS)
        now = self._clock.now()
        since, until = parse_range(call.text("since"), call.text("until"), now)
        asked = {"filters": call.text("filters")}
        with self._bus.subscribe() as reader:
            async with self._cluster.events(asked) as lines:
                stream = await call.stream("application/json")
                again: list[Told] = []
                if since is not None or until is not None:
                    until_now = nanoseconds(self._clock.now())
                    last = until_now if until is None else min(until, until_now)
                    again = self._past(filters, since, last)
                    again += await self._past_of_cluster(asked, since, last)
                for _, line in sorted(again):
                    await stream.write(line)
                left = None if until is None else (until - nanoseconds(now)) / 1e9
                if left is None or left > 0:
                    told = {line for _, line in again}

                    async def write(line: bytes) -> None:
                        if line not in told:  # what happened while the past was read
                            await stream.write(line)

                    await self._live(write, passing(reader, filters), lines, left)
        return stream.response

    def _past(self, filters: Filters, since: int | None, until: int) -> list[Told]:
        return [
            (event.nanos, _line(event))
            for event in self._bus.past()
            if (since is None or event.nanos >= since)
            and event.nanos <= until
            and matches(event, filters)
        ]

    async def _past_of_cluster(
        self, asked: dict[str, str], since: int | None, until: int
    ) -> list[Told]:
        query = {**asked, "until": _seconds(until)}
        if since is not None:
            query["since"] = _seconds(since)
        async with self._cluster.events(query) as lines:
            return [
                (msgspec.json.decode(line, type=_Instant).nanos, line)
                async for line in _until_broken(lines)
            ]

    async def _live(
        self,
        write: Callable[[bytes], Awaitable[None]],
        host: AsyncIterable[Event],
        cluster: Lines | None,
        left: float | None,
    ) -> None:
        async def of_host() -> None:
            async for event in host:
                await write(_line(event))

        async def of_cluster() -> None:
            async for line in _until_broken(cluster):
                await write(line)

        async with asyncio.TaskGroup() as group:
            works = [group.create_task(of_host())]
            if cluster is not None:
                works.append(group.create_task(of_cluster()))
            await asyncio.wait(works, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for work in works:
                work.cancel()


async def passing(reader: Subscription, filters: Filters) -> AsyncIterator[Event]:
    """What the filters let through."""
    async for event in reader:
        if matches(event, filters):
            yield event


async def _until_broken(lines: Lines | None) -> AsyncIterator[bytes]:
    if lines is None:
        return
    try:
        async for line in lines:
            yield line
    except aiohttp.ClientError as error:
        log.info("the manager's events broke off", reason=str(error))


def _line(event: Event) -> bytes:
    return msgspec.json.encode(event.to_wire()) + b"\n"


def _seconds(nanos: int) -> str:
    return f"{nanos // 1_000_000_000}.{nanos % 1_000_000_000:09d}"
