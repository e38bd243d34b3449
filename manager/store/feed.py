"""Fills the memory: one consistent list, then the watch; a list again when history is gone.

A watch is a hint (DESIGN rule 4): it is resumed from the last revision + 1, the list is read
again after a compaction and every ten minutes in any case, and what differs becomes events like
any other change. The whole keyspace is watched, so that every revision, also one of the
election or of a lease, moves the memory's revision on and a barrier is never left waiting.
"""

import asyncio
from random import Random

import structlog

from manager.store.keys import LEADER_KEY, ROOT
from manager.store.kv import KV, Compacted, KeyValue, Prefix, WatchResponse, pages
from manager.store.memory import Entry, Memory
from shoal.common.backoff import Backoff
from shoal.model.errors import Unavailable

_log = structlog.get_logger(__name__)

RELIST_SECONDS = 600.0
BACKOFF = Backoff(first=0.05, factor=2.0, cap=2.0, jitter=0.2)


class Feed:
    """Keeps one memory equal to the store, until cancelled."""

    def __init__(self, kv: KV, memory: Memory, chance: Random) -> None:
        self._kv = kv
        self._memory = memory
        self._chance = chance
        self._listed = asyncio.Event()

    async def ready(self) -> None:
        """Return once the first list is in memory."""
        await self._listed.wait()

    async def run(self) -> None:
        """List and watch, over and over."""
        delays = BACKOFF.delays(self._chance)
        while True:
            try:
                await self._list()
                await self._follow()
                delays = BACKOFF.delays(self._chance)
            except Compacted as error:
                _log.info("history is gone, listing again", reason=str(error))
            except Unavailable as error:
                _log.warning("the store does not answer", reason=str(error))
                await asyncio.sleep(next(delays))

    async def _list(self) -> None:
        entries: list[Entry] = []
        revision = 0
        async for page in pages(self._kv, Prefix(ROOT.encode())):
            revision = revision or page.revision
            entries.extend(_entry(kv) for kv in page.kvs)
        leader = await self._kv.range(LEADER_KEY, revision=revision)
        for kv in leader.kvs:
            self._memory.learn_epoch(kv.create_revision)
        self._memory.reset(entries, revision)
        self._listed.set()

    async def _follow(self) -> None:
        """Apply the watch until it is time to list again."""
        until = asyncio.get_running_loop().time() + RELIST_SECONDS
        delays = BACKOFF.delays(self._chance)
        while True:
            reached = self._memory.revision
            try:
                async with asyncio.timeout_at(until):
                    await self._watch()
            except TimeoutError:
                return
            except Unavailable as error:
                _log.info("watch broke, resuming", reason=str(error))
                if self._memory.revision > reached:
                    delays = BACKOFF.delays(self._chance)
                await asyncio.sleep(next(delays))

    async def _watch(self) -> None:
        start = self._memory.revision + 1
        async with self._kv.watch(Prefix(b""), start_revision=start) as watch:
            async for response in watch:
                self._take(response)

    def _take(self, response: WatchResponse) -> None:
        for event in response.events:
            if event.kv.key == LEADER_KEY and not event.deleted:
                self._memory.learn_epoch(event.kv.create_revision)
        entries = [
            _entry(event.kv, deleted=event.deleted)
            for event in response.events
            if event.kv.key.startswith(ROOT.encode())
        ]
        self._memory.apply(entries, response.revision)


def _entry(kv: KeyValue, *, deleted: bool = False) -> Entry:
    return Entry(kv.key.decode(), None if deleted else kv.value, kv.mod_revision)
