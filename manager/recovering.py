"""`swarm init --force-new-cluster`: a cluster of one out of what this host's store holds.

For when the quorum is lost for good. Services, tasks, secrets and workers stay. The other
managers become workers in the list: their stores are not to be trusted any more, and where
their hosts come back they fetch a worker's certificate and drop their data, to be promoted
again. What agents may have heard from the lost majority and this host never did is undone by a
new incarnation, which starts epochs and revisions anew. Called by `manager.__main__`; may be
repeated after a crash at any point.
"""

from datetime import datetime
from random import Random

import structlog
from msgspec.structs import replace

from manager.member import Member
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.kv import KV
from manager.store.memory import Memory
from manager.view import View
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.supervise import stoppable_group
from shoal.model.changes import Group, Update
from shoal.model.errors import Internal, Unavailable
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import ManagerInfo, Node
from shoal.model.states import NodeRole

_log = structlog.get_logger(__name__)


async def take_over(
    member: Member,
    config: HostConfig,
    me: NodeID,
    kv: KV,
    clock: Clock,
    ids: IdSource,
    chance: Random,
) -> None:
    """Return when this host's member is the only one and the objects say so too."""
    status = await member.recover()
    info = ManagerInfo(
        addr=f"{config.address}:{config.port}",
        join_addr=f"{config.address}:{config.join_port}",
        member=f"{status.member:x}",
    )
    memory = Memory()
    feed = Feed(kv, memory, chance)
    async with stoppable_group() as group:
        group.start(feed.run(), name="feed")
        await feed.ready()
        outcome = await Commit(kv, memory, ids).commit(
            [new_incarnation(memory, me, info, clock.now())]
        )
        group.stop()
    if outcome.clashed:
        raise Unavailable("the cluster changed while it was taken over", retry_after=1.0)
    _log.warning("cluster forced anew: this is its only manager", node=me)


def new_incarnation(view: View, me: NodeID, info: ManagerInfo, now: datetime) -> Group:
    """The cluster with one manager, and an incarnation that no agent has heard of."""
    cluster = view.cluster()
    if cluster is None:
        raise Internal("the store of this host holds no cluster")
    anew = replace(cluster, incarnation=cluster.incarnation + 1, updated_at=now)
    nodes = [
        _as(node, NodeRole.MANAGER, info, now)
        if node.id == me
        else _as(node, NodeRole.WORKER, None, now)
        for node in view.nodes()
    ]
    return Group((Update(anew), *map(Update, nodes)), "cluster forced anew")


def _as(node: Node, role: NodeRole, info: ManagerInfo | None, now: datetime) -> Node:
    spec = replace(node.spec, role=role.value)
    return replace(node, spec=spec, role=role, manager=info, updated_at=now)
