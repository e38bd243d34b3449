"""One manager in one life: all its real parts but gRPC, TLS and the REST front.

As `manager.running` puts them together. Killing it takes its store client away first, so that
nothing of its clean-up happens, as with SIGKILL.
"""

import asyncio
import random
from collections.abc import Sequence

from manager.admission import Roster
from manager.control.attachments import Attachments
from manager.control.operations import Chance, Operations
from manager.control.writing import Writer
from manager.dispatcher.assignments import Confidences
from manager.dispatcher.networks import NetworkParts
from manager.dispatcher.presence import Presence
from manager.dispatcher.status import StatusWriter
from manager.leader import Leadership, Leading
from manager.loops.loop import ControlLoop, Row
from manager.member import Membership
from manager.roles import Demotions
from manager.sparing import Sparing
from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.election import Candidate
from manager.store.feed import Feed
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from manager.succession import Succession
from shoal.common.entropy import SeededIds
from shoal.common.supervise import Supervisor
from shoal.model.ids import NodeID
from tests.simulation.clockwork import VirtualClock
from tests.simulation.network import Network
from tests.simulation.parts import REAL, Parts
from tests.simulation.store import ManagersKV


class Manager:
    """Made for one life; `run` it in the world's group, `kill` it from outside."""

    def __init__(
        self,
        node: NodeID,
        kv: ManagersKV,
        network: Network,
        table: Sequence[Row],
        chance: random.Random,
        group: asyncio.TaskGroup,
        made: Parts = REAL,
    ) -> None:
        self.node = node
        self.kv = kv
        self._network = network
        clock = VirtualClock()
        ids = SeededIds(chance.getrandbits(64))
        me = Candidate(node, node)
        self._supervisor = Supervisor(clock, chance)
        self.memory = Memory()
        barrier = Barrier(kv, self.memory.reached)
        self._feed = Feed(kv, self.memory, chance)
        commit = Commit(kv, self.memory, ids)
        roster = Roster(Membership(kv, clock), self.memory, commit, barrier, clock)
        succession = Succession(self.memory, clock, node, self._answers)
        leading = Leading(
            kv,
            self.memory,
            ids,
            lambda commit: ControlLoop(table, self.memory, commit, clock, ids),
            succession,
            {
                "demotions": Demotions(self.memory, roster).run,
                "sparing": Sparing(self.memory, clock, self._refuses).run,
            },
            self._supervisor,
        )
        self.leadership = Leadership(kv, me, leading.run, self._answers, chance)
        self._presence = Presence(kv, chance)
        self.sessions = sessions = made.sessions(
            kv, self.memory, barrier, self._presence, node, clock, ids
        )
        self._statuses = StatusWriter(kv, self.memory)
        parts = NetworkParts()
        self.draining = made.draining(kv, self.memory, sessions, self._presence, parts, node)
        self.dispatcher = made.dispatcher(
            self.memory,
            sessions,
            self._statuses,
            nothing_confided,
            self.draining,
            parts,
            Attachments(Writer(kv, self.memory, barrier, ids), self.memory, clock),
        )
        self.operations = Operations(
            node,
            kv,
            self.memory,
            barrier,
            Sealer(b"k" * 32),
            clock,
            Chance(ids, chance.randbytes, chance),
        )
        self._running = group.create_task(self._run(), name=f"manager {node}")

    def kill(self) -> None:
        """It dies at once."""
        self.kv.reachable = False
        self._network.close(self.node)
        self._running.cancel()

    async def _run(self) -> None:
        keep = self._supervisor.keep
        async with asyncio.TaskGroup() as group:
            group.create_task(keep("feed", self._feed.run), name="feed")
            await self._feed.ready()
            group.create_task(keep("presence", self._presence.run), name="presence")
            group.create_task(keep("sessions", self.sessions.run), name="sessions")
            group.create_task(keep("draining", self.draining.run), name="draining")
            group.create_task(keep("statuses", self._statuses.run), name="statuses")
            group.create_task(keep("leadership", self.leadership.run), name="leadership")
            self._network.listen(self.node, self.dispatcher.converse)

    async def _refuses(self, address: str) -> bool:
        return await self._network.refuses(self.node, address)

    async def _answers(self, address: str) -> bool:
        return await self._network.answers(self.node, address)


def nothing_confided() -> Confidences:
    """No service has credentials or secrets here."""
    return Confidences({}, lambda secret: secret.sealed)
