"""One writer, many readers, each with a bounded queue.

A reader that falls behind loses its queue and gets a `Relist` instead: it must list again and
carry on, as a watch after compaction. The writer never waits. The manager's feed and the event
streams of both REST halves use it.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

from msgspec import Struct

from shoal.model.errors import InvalidArgument

T = TypeVar("T")


class Relist(Struct, frozen=True):
    """Stands for `lost` items that this reader was too slow for. List again, then go on."""

    lost: int


class Reader(Generic[T]):
    """One reader's queue: an async iterator, and a context that ends the subscription.

    Items published after a `Relist` follow it, so listing upon it leaves no gap; what the
    list already showed may come again.
    """

    def __init__(self, broadcast: "Broadcast[T]", limit: int) -> None:
        self._broadcast = broadcast
        self._limit = limit
        self._items: deque[T] = deque()
        self._lost = 0
        self._closed = False
        self._ready = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._broadcast.remove(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T | Relist:
        while True:
            if self._lost:
                lost, self._lost = self._lost, 0
                return Relist(lost)
            if self._items:
                return self._items.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()

    def offer(self, item: T) -> None:
        """For the broadcast only: queue an item, or drop the whole queue."""
        if len(self._items) >= self._limit:
            self._lost += len(self._items)
            self._items.clear()
        self._items.append(item)
        self._ready.set()

    def close(self) -> None:
        """For the broadcast only: end once the queue is empty."""
        self._closed = True
        self._ready.set()


class Broadcast(Generic[T]):
    """The writer's side. All of it belongs to one event loop."""

    def __init__(self) -> None:
        self._readers: set[Reader[T]] = set()
        self._closed = False

    def publish(self, item: T) -> None:
        """Give an item to every present reader; never waits."""
        for reader in self._readers:
            reader.offer(item)

    def subscribe(self, limit: int = 1024) -> Reader[T]:
        """A reader of everything from now on; use it as a context."""
        if limit < 1:
            raise InvalidArgument("a reader's queue must hold at least one item")
        reader: Reader[T] = Reader(self, limit)
        if self._closed:
            reader.close()
        else:
            self._readers.add(reader)
        return reader

    def remove(self, reader: Reader[T]) -> None:
        """End a subscription; its reader ends once its queue is empty."""
        self._readers.discard(reader)
        reader.close()

    def close(self) -> None:
        """End all readers once they have drained their queues."""
        self._closed = True
        for reader in tuple(self._readers):
            self.remove(reader)
