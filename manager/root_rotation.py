"""Carries a change of the cluster's CA on, while this manager leads.

What the steps are is `manager.ca.rotation`'s. A node that is down holds the change up, as it
would be locked out at its end: it comes back, or it is removed.
"""

import asyncio
from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from manager.ca import rotation
from manager.ca.sealed import open_secrets, seal_secrets
from manager.ca.tokens import RandomBytes
from manager.store.commit import Commit
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from shoal.common.clock import Clock
from shoal.common.renewal import FOLLOW_SECONDS
from shoal.model.changes import Event, Group, Update
from shoal.model.objects import Cluster, Node

_log = structlog.get_logger(__name__)


class RootRotation:
    """Compares what the nodes have with what they shall have."""

    def __init__(
        self, memory: Memory, sealer: Sealer, clock: Clock, random_bytes: RandomBytes
    ) -> None:
        self._memory = memory
        self._sealer = sealer
        self._clock = clock
        self._random_bytes = random_bytes
        self._woken = asyncio.Event()
        self._rested = False

    async def run(self, commit: Commit) -> None:
        """Take the next step whenever all nodes have followed the last, until cancelled."""
        stop_listening = self._memory.listen(self._on_events)
        try:
            while True:
                self._woken.clear()
                await self._advance(commit)
                await self._woken.wait()
        finally:
            stop_listening()

    def _on_events(self, events: Sequence[Event]) -> None:
        if any(isinstance(event.object, Cluster | Node) for event in events):
            self._woken.set()

    async def _advance(self, commit: Commit) -> None:
        cluster = self._memory.cluster()
        if cluster is None or not cluster.next_root:
            return
        waiting = rotation.behind(cluster, self._memory.nodes())
        if waiting:
            names = ", ".join(node.id for node in waiting[:10])
            self._rested = False
            _log.info("change of CA waits", step=cluster.rotation.value, nodes=names)
            return
        if not self._rested:
            # Nodes speak for their agents; a manager beside takes the certificate over later.
            await asyncio.sleep(1.5 * FOLLOW_SECONDS)
            self._rested = True
            self._woken.set()
            return
        self._rested = False
        secrets = open_secrets(self._sealer, cluster.id, cluster.sealed)
        changed, kept = rotation.advanced(cluster, secrets, self._random_bytes)
        sealed = seal_secrets(self._sealer, cluster.id, kept)
        changed = replace(changed, sealed=sealed, updated_at=self._clock.now())
        outcome = await commit.commit([Group((Update(changed),), "change of CA goes on")])
        await self._memory.reached(outcome.revision)
        if outcome.clashed:
            self._woken.set()
        else:
            _log.info("change of CA goes on", step=changed.rotation.value or "done")
