"""Leading: the election and, while it is won, what only a leader does.

Every write of the leader is fenced by the epoch it was elected with, so a leader that does not
know yet that it is none can write nothing. A manager that loses sight of the leader's host
takes over early (DESIGN rule 3d): it watches the leader's gRPC port by a connection of its own.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog

from manager.loops.loop import ControlLoop
from manager.probing import LIMIT_SECONDS, Question
from manager.store.commit import Commit
from manager.store.election import Candidate, Election, Leader
from manager.store.keys import LEADER_KEY
from manager.store.kv import KV
from manager.store.memory import Memory
from manager.succession import Succession
from shoal.common.supervise import Restarts, Supervisor
from shoal.model.errors import Unavailable
from shoal.model.ids import IdSource, NodeID

_log = structlog.get_logger(__name__)

# A leader whose loop keeps failing gives leadership up: another one may fare better.
RESTARTS = Restarts(give_up_after=5)
PROBE_SECONDS = 0.25
PROBE_LIMIT = 2 * LIMIT_SECONDS


class Leading:
    """What only a leader does, while it is one.

    Args:
        control: makes the control loop of one epoch.
        duties: what else is kept running, by name, each with a commit of its own.
    """

    def __init__(
        self,
        kv: KV,
        memory: Memory,
        ids: IdSource,
        control: Callable[[Commit], ControlLoop],
        succession: Succession,
        duties: Mapping[str, Callable[[Commit], Awaitable[None]]],
        supervisor: Supervisor,
    ) -> None:
        self._kv = kv
        self._memory = memory
        self._ids = ids
        self._control = control
        self._succession = succession
        self._duties = duties
        self._supervisor = supervisor

    async def run(self, epoch: int) -> None:
        """Doubt, decide, and do what else there is, in this epoch, until cancelled."""
        await self._memory.reached(epoch)
        loop = self._control(self._commit(epoch))
        async with asyncio.TaskGroup() as group:
            keep = self._supervisor.keep
            group.create_task(self._succession.run(self._commit(epoch)), name="succession")
            group.create_task(keep("control loop", loop.run, RESTARTS), name="control loop")
            for name, duty in self._duties.items():
                work = partial(duty, self._commit(epoch))
                group.create_task(keep(name, work, RESTARTS), name=name)

    def _commit(self, epoch: int) -> Commit:
        """For one writer of that epoch."""
        return Commit(self._kv, self._memory, self._ids, (LEADER_KEY, epoch))


class Leadership:
    """This manager's part in leading the cluster.

    Args:
        lead: what is done in an epoch; cancelled when that is over.
        answers: whether the manager at an address can be reached.
    """

    def __init__(
        self,
        kv: KV,
        me: Candidate,
        lead: Callable[[int], Awaitable[None]],
        answers: Question,
        chance: random.Random,
    ) -> None:
        self._me = me
        self._lead = lead
        self._answers = answers
        self.election = Election(kv, me, chance)

    def leader(self, epoch: int) -> NodeID | None:
        """Who leads since that epoch, or a later one; None while nobody is known to.

        A manager that was cut off hears of a new epoch before it hears whose it is.
        """
        found = self.election.leader()
        if found is None or found.epoch < epoch:
            return None
        return NodeID(found.candidate.id)

    async def run(self) -> None:
        """Campaign, lead, follow, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._campaign(), name="election")
            group.create_task(self._watch_leader(), name="leader probe")

    async def _campaign(self) -> None:
        while True:
            try:
                await self.election.run(self._lead)
            except* Unavailable as group:
                _log.warning("leadership given up", reason=str(group.exceptions[0]))

    async def _watch_leader(self) -> None:
        """Replace a leader whose host answers no more, well before its lease ends."""
        leader = self.election.leader()
        while True:
            if leader is None or leader.candidate.id == self._me.id:
                leader = await self.election.changed(leader)
                continue
            await self._until_lost(leader)
            present = self.election.leader()
            if present == leader and await self._take_over(leader):
                _log.warning("took over from a leader that does not answer", leader=leader)
            leader = self.election.leader()

    async def _take_over(self, leader: Leader) -> bool:
        try:
            return await self.election.take_over(leader.epoch)
        except Unavailable as error:
            _log.info("cannot take over", reason=str(error))
            await asyncio.sleep(PROBE_SECONDS)
            return False

    async def _until_lost(self, leader: Leader) -> None:
        """Return when the leader changes, or refuses connections for the probe's limit."""
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while self.election.leader() == leader and loop.time() - answered < PROBE_LIMIT:
            if await self._answers(leader.candidate.address):
                answered = loop.time()
            await asyncio.sleep(PROBE_SECONDS)
