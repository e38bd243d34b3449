"""Spares nodes whose daemons are away though their hosts are not, while this manager leads.

A host process that was killed, or is upgraded, takes its agent's session along and brings it
back once it has loaded its programs: half a second, and 10 s on a machine that is overloaded
twentyfold. Its containers run on all the while. So before a node's grace is over its host is
asked for its agent's port. A kernel that refuses the connection lives, and has nobody listen:
the daemons are under way, and `orchestrator.node_health` waits for them, though not for ever. A
host that lost its power, or its cable, refuses nothing, and gains nothing.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from manager.orchestrator.node_health import grace_of, heard_last
from manager.probing import Question, ask_all
from manager.store.commit import Commit
from manager.store.memory import Memory
from shoal.common.clock import Clock
from shoal.model.changes import Group, Update
from shoal.model.errors import Unavailable
from shoal.model.ids import NodeID
from shoal.model.objects import Node
from shoal.model.states import NodeState

_log = structlog.get_logger(__name__)

EARLY = timedelta(seconds=1)
"""So long before the end of the grace a host is asked: for the answer and for writing it."""


class Sparing:
    """Asks the hosts of nodes that are lost.

    Args:
        refuses: whether the host at an address refuses a connection to its agent.
    """

    def __init__(
        self,
        memory: Memory,
        clock: Clock,
        refuses: Question,
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._refuses = refuses

    async def run(self, commit: Commit) -> None:
        """Ask and write down, with the leader's own commit, until cancelled."""
        asked: dict[NodeID, datetime] = {}
        with self._memory.woken_by(Node) as woken:
            while True:
                woken.clear()
                due = {node.id: self._due(node) for node in self._memory.nodes() if lost(node)}
                asked = {key: at for key, at in asked.items() if due.get(key) == at}
                now = self._clock.now()
                open_ = {key: at for key, at in due.items() if key not in asked}
                ready = [key for key, at in open_.items() if at <= now]
                if ready:
                    asked |= {key: open_[key] for key in ready}
                    await self._ask(ready, commit)
                    continue
                wait = min(open_.values()) - now if open_ else None
                try:
                    async with asyncio.timeout(wait.total_seconds() if wait else None):
                        await woken.wait()
                except TimeoutError:
                    continue

    def _due(self, node: Node) -> datetime:
        return heard_last(node) + grace_of(self._memory) - EARLY

    async def _ask(self, nodes: Sequence[NodeID], commit: Commit) -> None:
        found = (node for key in nodes if (node := self._memory.node(key)) is not None)
        answers = await ask_all(
            self._refuses, {node.id: node.addr for node in found if node.addr}
        )
        alive = (self._memory.node(key) for key, refused in answers.items() if refused)
        groups = [self._spared(node) for node in alive if node is not None and lost(node)]
        if not groups:
            return
        try:
            outcome = await commit.commit(groups)
            await self._memory.reached(outcome.revision)
        except Unavailable as error:
            _log.warning("not known whether nodes are spared", reason=str(error))

    def _spared(self, node: Node) -> Group:
        now = self._clock.now()
        _log.info("node spared: its host refuses connections, so it lives", node=node.id)
        changed: Node = msgspec.structs.replace(node, refused_at=now, updated_at=now)
        return Group((Update(changed),), reason="its daemons are away, its host is not")


def lost(node: Node) -> bool:
    """Whether its grace runs."""
    return (
        node.state is NodeState.READY and node.session is None and node.lost_since is not None
    )
