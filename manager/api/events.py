"""`/events`, the cluster's part: what happened to its objects, the last 256 happenings again.

Told from memory's changes, so every manager tells the same. The agent merges its host's own. A
reader that is too slow is cut off: its client asks again with `since`.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec
from aiohttp import web

from manager.api.backend import Backend
from manager.api.wire.events import Told, told
from shoal.common.broadcast import Broadcast, Relist
from shoal.common.engine_http.call import Call, Stream
from shoal.common.engine_http.instants import nanoseconds, parse_range
from shoal.common.engine_http.query import Filters
from shoal.common.engine_http.router import Router
from shoal.model.changes import Event

REPLAYED = 256
_FILTER_WORDS = """
type event scope container image label service node secret config network volume plugin daemon
"""
EVENT_FILTERS = frozenset(_FILTER_WORDS.split())
_OBJECTS = ("service", "node", "secret", "config", "network")
_ELSEWHERE = ("container", "image", "volume", "plugin", "daemon")


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """An event and when this manager learned of it, in nanoseconds since 1970."""

    what: Told
    nanos: int

    def to_json(self) -> dict[str, object]:
        """As `docker events` reads it."""
        return {
            "Type": self.what.kind,
            "Action": self.what.action,
            "Actor": {"ID": self.what.actor, "Attributes": self.what.attributes},
            "scope": "swarm",
            "time": self.nanos // 1_000_000_000,
            "timeNano": self.nanos,
        }


class EventHandlers:
    """Remembers what happens, from being made on, and streams it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._recent: deque[Happening] = deque(maxlen=REPLAYED)
        self._broadcast: Broadcast[Happening] = Broadcast()
        self._loaded = backend.operations.memory.revision > 0
        backend.operations.memory.listen(self._on_events)

    def add_to(self, router: Router) -> None:
        """Put the route into the table."""
        router.add("GET", "/events", self.stream, stream=True)

    def _on_events(self, events: Sequence[Event]) -> None:
        if not self._loaded:  # the first list: nothing has happened, it was there before
            self._loaded = True
            return
        nanos = nanoseconds(self._backend.clock.now())
        for event in events:
            what = told(event)
            if what is not None:
                happening = Happening(what=what, nanos=nanos)
                self._recent.append(happening)
                self._broadcast.publish(happening)

    async def stream(self, call: Call) -> web.StreamResponse:
        filters = call.filters(EVENT_FILTERS)
        now = self._backend.clock.now()
        since, until = parse_range(call.text("since"), call.text("until"), now)
        with self._broadcast.subscribe() as reader:
            again = replayed(self._recent, since, until)
            stream = await call.stream("application/json")
            for happening in again:
                if passes(filters, happening):
                    await _tell(stream, happening)
            left = None if until is None else max(0.0, (until - nanoseconds(now)) / 1e9)
            try:
                async with asyncio.timeout(left):
                    async for item in reader:
                        if isinstance(item, Relist):
                            break
                        if passes(filters, item):
                            await _tell(stream, item)
            except TimeoutError:
                pass  # the instant the client named
        return stream.response


def replayed(
    recent: Iterable[Happening], since: int | None, until: int | None
) -> list[Happening]:
    """What a client that names an instant is told again."""
    if since is None and until is None:
        return []
    return [
        one
        for one in recent
        if (since is None or one.nanos >= since) and (until is None or one.nanos <= until)
    ]


async def _tell(stream: Stream, happening: Happening) -> None:
    await stream.write(msgspec.json.encode(happening.to_json()) + b"\n")


def passes(filters: Filters, happening: Happening) -> bool:
    """Whether a client that filters so wants to hear of it."""
    what = happening.what
    name = what.attributes.get("name", "")
    if any(kind in filters for kind in _ELSEWHERE):
        return False
    wanted = [kind for kind in _OBJECTS if kind in filters]
    if wanted and what.kind not in wanted:
        return False
    return (
        filters.exact("type", what.kind)
        and filters.exact("event", what.action)
        and filters.exact("scope", "swarm")
        and (not wanted or filters.exact(what.kind, what.actor, name))
        and filters.labels(what.attributes)
    )
