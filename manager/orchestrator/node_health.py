"""Nodes without a session for the grace are down, nodes with one are ready. Pure.

The dispatcher removes a silent node's session key; here begins the grace. A node that has never
had a session stays unknown. A session that is doubted counts for nothing new, and yet the
grace begins only when it is gone: whoever lives has opened another one long since. A host that
lives without its daemons (`manager.sparing` asks) is waited for longer, one that said that it
left not at all. Wakes on nodes.
"""

from datetime import datetime, timedelta

import msgspec

from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.defaults import DEFAULT_HEARTBEAT, heartbeat_of
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import Node
from shoal.model.states import NodeState

PATIENCE = timedelta(seconds=1.5)
"""Beyond the two heartbeats after which an agent leaves a silent manager for another: together,
3.5 s with the default of 1 s, it is above what a restart of the daemons takes (a second or two
on a busy machine). What is lost without a word is noticed after two heartbeats of silence, or
with its manager's lease after 3 s: in all 5.5 to 7 s, of the 8 that a lost host's tasks may
take until they run elsewhere."""
FORCED_GRACE = timedelta(seconds=20)
"""From when the cluster was forced anew: agents that had no manager for long ask seldom, and
some of those they ask are gone."""
RESTART = timedelta(seconds=15)
"""For so long at most a node is without a session while its host is known to live: its daemons
are restarted or upgraded, and its containers run on."""
GROWS_ABOVE = 500
"""Up to this many nodes the grace is as above, beyond it grows in proportion."""


def grace(nodes: int, heartbeat: timedelta = DEFAULT_HEARTBEAT) -> timedelta:
    """How long a node may be without a session."""
    return (2 * heartbeat + PATIENCE) * max(1.0, nodes / GROWS_ABOVE)


def grace_of(view: View) -> timedelta:
    """The same in a cluster, by its size and its settings."""
    return grace(len(tuple(view.nodes())), heartbeat_of(view.cluster()))


def heard_last(node: Node) -> datetime:
    """When a node that is lost gave its last sign of life, or its host did."""
    assert node.lost_since is not None  # noqa: S101 - the caller's to know
    return max(node.lost_since, node.refused_at or node.lost_since)


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """The state of one node."""
    del ids
    node = view.node(NodeID(key))
    if node is None:
        return NOTHING
    if node.left:
        return _down(node, now, "left the cluster")
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
            refused_at=None,
            doubted="",
        )
    if node.state in (NodeState.UNKNOWN, NodeState.DOWN):
        return NOTHING
    if node.session is not None:
        return _becomes(node, now, lost_since=now) if node.lost_since is None else NOTHING
    if node.lost_since is None or node.doubted:
        decision = _becomes(node, now, lost_since=now, doubted="")
        return msgspec.structs.replace(decision, wake_at=_due(view, now, now))
    due = _due(view, node.lost_since, heard_last(node))
    if now < due:
        return Decision(wake_at=due)
    return _down(node, now, f"no session for {(now - node.lost_since).total_seconds():.1f} s")


def _due(view: View, lost: datetime, heard: datetime) -> datetime:
    """When a node is given up that lost its session and was heard last at those times."""
    cluster, allowed = view.cluster(), grace_of(view)
    due = min(heard + allowed, lost + max(RESTART, allowed))
    if cluster is None or cluster.forced_at is None:
        return due
    return max(due, cluster.forced_at + FORCED_GRACE)


def _down(node: Node, now: datetime, message: str) -> Decision:
    if node.state is NodeState.DOWN:
        return NOTHING
    return _becomes(node, now, state=NodeState.DOWN, message=message, down_since=now)


def _becomes(node: Node, now: datetime, **fields: object) -> Decision:
    changed = msgspec.structs.replace(node, updated_at=now, **fields)
    reason = f"node {changed.state.value}" if "state" in fields else "node lost its session"
    return Decision(groups=(Group((Update(changed),), reason=reason),))
