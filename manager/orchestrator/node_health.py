"""Nodes without a session for the grace are down, nodes with one are ready. Pure.

The dispatcher removes a silent node's session key; here begins the grace. A node that has never
had a session stays unknown. A session that is doubted counts for nothing new, and yet the
grace begins only when it is gone: whoever lives has opened another one long since. Wakes on
nodes.
"""

from datetime import datetime, timedelta

import msgspec

from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import Node
from shoal.model.states import NodeState

GRACE = timedelta(seconds=3.5)
"""Above what a restart of the daemons takes (a second or two on a busy machine). What is lost
without a word is noticed after 2 s of silence, or with its manager's lease after 3 s: in all
5.5 to 7 s, of the 8 that a lost host's tasks may take until they run elsewhere."""
FORCED_GRACE = timedelta(seconds=20)
"""From when the cluster was forced anew: agents that had no manager for long ask seldom, and
some of those they ask are gone."""
GROWS_ABOVE = 500
"""Up to this many nodes the grace is as above, beyond it grows in proportion."""


def grace(nodes: int) -> timedelta:
    """How long a node may be without a session."""
    return GRACE * max(1.0, nodes / GROWS_ABOVE)


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """The state of one node."""
    del ids
    node = view.node(NodeID(key))
    if node is None:
        return NOTHING
    if node.heard:
        if node.state is NodeState.READY and node.lost_since is None and not node.doubted:
            return NOTHING
        return _becomes(
            node,
            now,
            state=NodeState.READY,
            message="",
            down_since=None,
            lost_since=None,
            doubted="",
        )
    if node.state in (NodeState.UNKNOWN, NodeState.DOWN):
        return NOTHING
    if node.session is not None:
        return _becomes(node, now, lost_since=now) if node.lost_since is None else NOTHING
    if node.lost_since is None or node.doubted:
        decision = _becomes(node, now, lost_since=now, doubted="")
        return msgspec.structs.replace(decision, wake_at=_patience_ends(view, now))
    if now < (until := _patience_ends(view, node.lost_since)):
        return Decision(wake_at=until)
    silent = f"no session for {(now - node.lost_since).total_seconds():.1f} s"
    return _becomes(node, now, state=NodeState.DOWN, message=silent, down_since=now)


def _patience_ends(view: View, lost: datetime) -> datetime:
    """When a node that lost its session then is given up."""
    until = lost + grace(len(tuple(view.nodes())))
    cluster = view.cluster()
    if cluster is None or cluster.forced_at is None:
        return until
    return max(until, cluster.forced_at + FORCED_GRACE)


def _becomes(node: Node, now: datetime, **fields: object) -> Decision:
    changed = msgspec.structs.replace(node, updated_at=now, **fields)
    reason = f"node {changed.state.value}" if "state" in fields else "node lost its session"
    return Decision(groups=(Group((Update(changed),), reason=reason),))
