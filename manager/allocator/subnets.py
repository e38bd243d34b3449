"""Each node's /24 out of the cluster's node pool, for its tasks' addresses. Pure.

A subnet is given once and stays with its node; guard keys keep it from a second one. A node
without one takes no tasks, and the scheduler's message says so.
"""

from collections.abc import Iterator
from datetime import datetime
from ipaddress import IPv4Network, ip_network

import msgspec

from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource

PREFIX = 24


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give a subnet to every node that has none, as long as the pool lasts."""
    del key, ids
    cluster = view.cluster()
    bare = [node for node in view.nodes() if not node.subnet]
    if cluster is None or not bare:
        return NOTHING
    taken = {node.subnet for node in view.nodes() if node.subnet}
    free = _free(cluster.node_pool, taken)
    groups = [
        Group(
            (Update(msgspec.structs.replace(node, subnet=subnet, updated_at=now)),),
            reason=f"subnet {subnet} for the node's tasks",
        )
        for node, subnet in zip(bare, free, strict=False)
    ]
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _free(pool: str, taken: set[str]) -> Iterator[str]:
    network = ip_network(pool)
    if not isinstance(network, IPv4Network) or network.prefixlen > PREFIX:
        return
    for subnet in network.subnets(new_prefix=PREFIX):
        if str(subnet) not in taken:
            yield str(subnet)
