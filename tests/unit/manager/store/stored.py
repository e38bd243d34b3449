"""A simulated store with a fed memory beside it, for tests of what writes and reads both."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from manager.store.commit import Commit, Outcome
from manager.store.feed import Feed
from manager.store.kv import Prefix
from manager.store.memory import Memory
from manager.store.simulated import Faults, SimulatedEtcd
from shoal.common.entropy import SeededIds
from shoal.model.changes import Change, Create, Group
from shoal.model.objects import StoredObject


class Stored:
    """One manager's store half."""

    def __init__(self) -> None:
        self.etcd = SimulatedEtcd(random.Random(1), Faults())
        self.kv = self.etcd.client()
        self.memory = Memory()
        self.ids = SeededIds(1)
        self.commit = Commit(self.kv, self.memory, self.ids)
        self.feed = Feed(self.kv, self.memory, random.Random(2))

    async def write(self, *changes: Change) -> Outcome:
        """All changes as one group, and memory knows of it."""
        return await self.write_groups([Group(changes)])

    async def write_groups(self, groups: Sequence[Group]) -> Outcome:
        outcome = await self.commit.commit(groups)
        await self.memory.reached(outcome.revision)
        return outcome

    async def create(self, *things: StoredObject) -> None:
        outcome = await self.write(*(Create(thing) for thing in things))
        assert not outcome.clashed

    async def keys(self, prefix: str = "shoal/") -> list[str]:
        """All keys but those of mutations."""
        found = await self.kv.range(Prefix(prefix.encode()))
        keys = [entry.key.decode() for entry in found.kvs]
        return [key for key in keys if not key.startswith("shoal/mutation/")]

    def fault_for(self, seconds: float, **faults: object) -> None:
        """Faults that pass by themselves."""
        for name, value in faults.items():
            usual = getattr(Faults(), name)
            setattr(self.etcd.faults, name, value)
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, setattr, self.etcd.faults, name, usual)


@asynccontextmanager
async def stored() -> AsyncIterator[Stored]:
    made = Stored()
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(made.feed.run())
        await made.feed.ready()
        yield made
        feeding.cancel()
