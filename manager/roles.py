"""Carries demotions out, while this manager leads: out of the store's members, then the list.

Promotion needs nothing of it: a node that is told to be a manager enrols itself. A demotion
that would lose the quorum is tried again whenever the managers or their sessions change.
"""

import asyncio

import structlog

from manager.admission import Roster
from manager.store.commit import Commit
from manager.store.memory import Memory
from shoal.model.errors import ClusterError
from shoal.model.ids import NodeID
from shoal.model.objects import Node
from shoal.model.states import NodeRole

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


class Demotions:
    """Compares the roles wanted with the list of managers."""

    def __init__(self, memory: Memory, roster: Roster) -> None:
        self._memory = memory
        self._roster = roster

    async def run(self, commit: Commit) -> None:
        """Demote until cancelled.

        The list of managers is the roster's to write, as for whoever else changes it.
        """
        del commit
        with self._memory.woken_by(Node) as woken:
            while True:
                woken.clear()
                waiting = [node for node in self._due() if not await self._demote(node)]
                try:
                    async with asyncio.timeout(RETRY_SECONDS if waiting else None):
                        await woken.wait()
                except TimeoutError:
                    continue

    def _due(self) -> list[NodeID]:
        return [
            node.id
            for node in self._memory.nodes()
            if node.manager is not None and node.spec.role == NodeRole.WORKER.value
        ]

    async def _demote(self, node: NodeID) -> bool:
        try:
            await self._roster.remove(node)
        except ClusterError as error:
            _log.warning("demotion waits", node=node, reason=str(error))
            return False
        _log.info("manager demoted", node=node)
        return True
