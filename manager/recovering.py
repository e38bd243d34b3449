"""`swarm init --force-new-cluster`: a cluster of one out of what this host's store holds.

For when the quorum is lost for good. Services, tasks, secrets and workers stay. The other
managers are down and become workers: their stores are not to be trusted any more, and where
their hosts come back they fetch a worker's certificate and drop their data, to be promoted
again. What agents may have heard from the lost majority and this host never did is undone by a
new incarnation, which starts epochs and revisions anew. Called by `manager.__main__`; may be
repeated after a crash at any point.
"""

from datetime import datetime
from random import Random

import structlog
from msgspec.structs import replace

from manager.member import Member, manager_info
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.keys import SESSIONS
from manager.store.kv import KV, DeleteRange, Prefix
from manager.store.memory import Memory
from manager.view import View
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.supervise import stoppable_group
from shoal.model.changes import Group, Update
from shoal.model.errors import Internal, Unavailable
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import ManagerInfo, Node
from shoal.model.states import NodeRole, NodeState

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
    info = manager_info(config, status.member)
    # Sessions are lost with their managers, whose leases would keep the keys for a while.
    await kv.txn((), (DeleteRange(Prefix(SESSIONS.encode())),))
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
    anew = replace(cluster, incarnation=cluster.incarnation + 1, forced_at=now)
    nodes = []
    for node in view.nodes():
        if node.id == me:
            nodes.append(_as(node, NodeRole.MANAGER, manager=info, updated_at=now))
        elif _was_manager(node):
            nodes.append(
                _as(
                    node,
                    NodeRole.WORKER,
                    manager=None,
                    state=NodeState.DOWN,
                    message="the cluster was forced anew without this manager",
                    down_since=now,
                    updated_at=now,
                )
            )
    return Group((Update(anew), *map(Update, nodes)), "cluster forced anew")


def _as(node: Node, role: NodeRole, **facts: object) -> Node:
    return replace(node, spec=replace(node.spec, role=role.value), role=role, **facts)


def _was_manager(node: Node) -> bool:
    return NodeRole.MANAGER.value in (node.role.value, node.spec.role) or bool(node.manager)
