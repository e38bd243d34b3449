"""What happened on this host, told to whoever listens: `docker events`, and the last 256 again.

One writer side, bounded readers: a reader that falls behind is cut off and asks again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import datetime

import msgspec

from shoal.common.clock import Clock
from shoal.common.engine_http.query import Filters

REPLAYED = 256
_BACKLOG = 1024

_WORDS = """
type event scope container image label service node secret config network volume plugin daemon
"""
FILTERS = frozenset(_WORDS.split())


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One happening; `attributes` of containers hold name, image and labels."""

    type: str
    action: str
    actor: str
    attributes: Mapping[str, str]
    at: datetime
    nanos: int

    def to_wire(self) -> dict[str, object]:
        """Docker's JSON, with the fields that old clients read for containers and images."""
        out: dict[str, object] = {}
        if self.type in ("container", "image"):
            out["status"] = self.action
            out["id"] = self.actor
            if self.type == "container":
                out["from"] = self.attributes.get("image", "")
        out |= {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.actor, "Attributes": dict(self.attributes)},
            "scope": "local",
            "time": self.nanos // 1_000_000_000,
            "timeNano": self.nanos,
        }
        return out


class Subscription:
    """A reader of the bus; iterate until cut off or closed."""

    def __init__(self, bus: "EventBus") -> None:
        self._bus = bus
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_BACKLOG + 1)

    def offer(self, event: Event) -> bool:
        """Hand over an event; False, and the end of the reading, when the reader is behind."""
        if self._queue.qsize() >= _BACKLOG:
            self._queue.put_nowait(None)
            return False
        self._queue.put_nowait(event)
        return True

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.drop(self)


class EventBus:
    """The host's events."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._past: deque[Event] = deque(maxlen=REPLAYED)
        self._readers: set[Subscription] = set()

    def publish(
        self, kind: str, action: str, actor: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Tell everybody."""
        at = self._clock.now()
        nanos = int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000
        event = Event(
            type=kind,
            action=action,
            actor=actor,
            attributes=dict(attributes or {}),
            at=at,
            nanos=nanos,
        )
        self._past.append(event)
        self._readers = {reader for reader in self._readers if reader.offer(event)}

    def past(self) -> tuple[Event, ...]:
        """The events still remembered, oldest first."""
        return tuple(self._past)

    def subscribe(self) -> Subscription:
        """From now on; use it in a `with` block."""
        reader = Subscription(self)
        self._readers.add(reader)
        return reader

    def drop(self, reader: Subscription) -> None:
        """Forget a reader."""
        self._readers.discard(reader)


def matches(event: Event, filters: Filters) -> bool:
    """Whether a reader's filters let an event through."""
    attributes = event.attributes
    if not filters.exact("type", event.type) or not filters.exact("scope", "local"):
        return False
    if "event" in filters and not any(
        event.action == wanted or event.action.startswith(wanted + ":")
        for wanted in filters.get("event")
    ):
        return False
    if not filters.labels(attributes):
        return False
    for kind in ("container", "network", "volume", "plugin", "daemon", "image"):
        if kind in filters and not _about(event, kind, filters):
            return False
    return not any(k in filters for k in ("service", "node", "secret", "config"))


def _about(event: Event, kind: str, filters: Filters) -> bool:
    name = event.attributes.get("name", "")
    if kind == "image" and event.type == "container":
        image = event.attributes.get("image", "")
        return filters.exact(kind, image, image.partition(":")[0])
    if event.type != kind:
        return False
    return filters.exact(kind, event.actor, name) or filters.prefix(kind, event.actor)
