"""Carries a change of the cluster's CA on, while this manager leads.

What the steps are is `manager.ca.rotation`'s. A node that is down holds the change up, as it
would be locked out at its end: it comes back, or it is removed.
"""

import asyncio

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
from shoal.model.changes import Group, Update
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

    async def run(self, commit: Commit) -> None:
        """Take the next step whenever all nodes have followed the last, until cancelled."""
        with self._memory.woken_by(Cluster, Node) as woken:
            while True:
                woken.clear()
                while (cluster := self._followed()) is not None:
                    # Nodes speak for their agents; a manager beside takes the certificate
                    # over later. Meanwhile a node may have come that has not followed.
                    await asyncio.sleep(1.5 * FOLLOW_SECONDS)
                    if cluster == self._followed():
                        await self._advance(commit, cluster)
                await woken.wait()

    def _followed(self) -> Cluster | None:
        """The cluster, where its CA changes and every node has done its part of this step."""
        cluster = self._memory.cluster()
        if cluster is None or not cluster.next_root:
            return None
        waiting = rotation.behind(cluster, self._memory.nodes())
        if waiting:
            names = ", ".join(node.id for node in waiting[:10])
            _log.info("change of CA waits", step=cluster.rotation.value, nodes=names)
            return None
        return cluster

    async def _advance(self, commit: Commit, cluster: Cluster) -> None:
        secrets = open_secrets(self._sealer, cluster.id, cluster.sealed)
        changed, kept = rotation.advanced(cluster, secrets, self._random_bytes)
        sealed = seal_secrets(self._sealer, cluster.id, kept)
        changed = replace(changed, sealed=sealed, updated_at=self._clock.now())
        outcome = await commit.commit([Group((Update(changed),), "change of CA goes on")])
        await self._memory.reached(outcome.revision)
        if not outcome.clashed:
            _log.info("change of CA goes on", step=changed.rotation.value or "done")
