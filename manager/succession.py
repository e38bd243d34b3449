"""What a new leader does first: it does not count on the sessions of managers that are gone.

A dead manager's sessions outlive it by its lease, 3 s and more where the store lost its leader
too, and a node with a session is one that tasks are placed on. So each manager that sessions
are held by is asked once whether it answers; of one that does not, the sessions are doubted,
and that of its own host, whoever holds it. Nobody loses anything by that: agents of living
hosts open another session at once (the holder of a doubted one ends it, if it lives), and
`orchestrator.node_health` counts a doubted node's grace from the end of its key, as ever.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
import structlog

from manager.probing import Question, ask_all
from manager.store.commit import Commit
from manager.store.memory import Memory
from shoal.common.clock import Clock
from shoal.model.changes import Group, Update
from shoal.model.errors import Unavailable
from shoal.model.ids import NodeID
from shoal.model.objects import Node

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.1


class Succession:
    """Doubts the sessions of managers that do not answer.

    Args:
        me: this manager.
        answers: whether the manager at an address can be reached.
    """

    def __init__(
        self,
        memory: Memory,
        clock: Clock,
        me: NodeID,
        answers: Question,
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._me = me
        self._answers = answers

    async def run(self, commit: Commit) -> None:
        """Ask, and write down what is doubted, with the leader's own commit."""
        silent = await self._silent()
        doubted = {
            node.id: node.session.session
            for node in self._memory.nodes()
            if node.session is not None
            and (node.session.manager in silent or node.id in silent)
        }
        while groups := tuple(self._groups(doubted)):
            try:
                outcome = await commit.commit(groups)
                await self._memory.reached(outcome.revision)
            except Unavailable as error:
                _log.warning("not known whether sessions are doubted", reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _silent(self) -> frozenset[NodeID]:
        """Managers that hold sessions, or whose hosts have one, and do not answer."""
        holders = {node.session.manager for node in self._memory.nodes() if node.session}
        asked = {
            node.id: node.manager.addr
            for node in self._memory.nodes()
            if node.id != self._me
            and node.manager is not None
            and (node.id in holders or node.session is not None)
        }
        answers = await ask_all(self._answers, asked)
        return frozenset(node for node, answered in answers.items() if not answered)

    def _groups(self, doubted: Mapping[NodeID, str]) -> Iterable[Group]:
        """What is left to write: of nodes that still have those sessions."""
        now = self._clock.now()
        for identity, session in doubted.items():
            node = self._memory.node(identity)
            if node is None or node.session is None or node.session.session != session:
                continue
            if node.doubted != session:
                _log.info("session doubted", node=identity, manager=node.session.manager)
                changed: Node = msgspec.structs.replace(node, doubted=session, updated_at=now)
                yield Group((Update(changed),), reason="its manager does not answer")
