"""Whether a node is heard of: READY with a session, DOWN after a grace without one. Pure.

Wakes on nodes. The dispatcher takes a node's session key away when its agent disconnects or is
silent for three seconds, and it vanishes with the manager that held it; the grace counts from
when the leader saw it gone, and is kept in the object so that a new leader goes on with it.
"""

from datetime import datetime, timedelta

import msgspec

from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import Node
from shoal.model.states import NodeState

GRACE = timedelta(seconds=2.5)
SMALL_CLUSTER = 500


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """One node's state by its session."""
    del ids
    node = view.node(NodeID(key))
    if node is None:
        return NOTHING
    if node.session is not None:
        if node.state is NodeState.READY and node.lost_since is None:
            return NOTHING
        return _to(node, now, NodeState.READY, "", lost=None)
    if node.state is NodeState.DOWN:
        return NOTHING
    if node.lost_since is None:
        waits = _to(node, now, node.state, node.message, lost=now)
        return msgspec.structs.replace(waits, wake_at=now + grace(view))
    if now < node.lost_since + grace(view):
        return Decision(wake_at=node.lost_since + grace(view))
    return _to(node, now, NodeState.DOWN, "heartbeat failure", lost=node.lost_since)


def grace(view: View) -> timedelta:
    """Longer above 500 nodes, where agents take longer to find another manager."""
    nodes = sum(1 for _ in view.nodes())
    return GRACE * max(1.0, nodes / SMALL_CLUSTER)


def _to(
    node: Node, now: datetime, state: NodeState, message: str, *, lost: datetime | None
) -> Decision:
    changed = msgspec.structs.replace(
        node,
        state=state,
        message=message,
        lost_since=lost,
        down_since=now if state is NodeState.DOWN else None,
        updated_at=now,
    )
    reason = f"node is {state.value}" if state is not node.state else "node was lost sight of"
    return Decision(groups=(Group((Update(changed),), reason),))
