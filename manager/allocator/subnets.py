"""Each node's /24 out of the ingress network's pool, for its tasks' gateway addresses. Pure.

A subnet stays with its node; guard keys keep it from a second one. Where the ingress network
was made again with another pool, a node changes over as soon as no task is on it. A node
without a subnet takes no tasks, and the scheduler's message says so.
"""

from collections.abc import Iterator
from datetime import datetime
from ipaddress import IPv4Network

import msgspec

from manager.allocator.addresses import ingress_share
from manager.view import View, ingress_of
from shoal.model.addresses import network_of
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource
from shoal.model.objects import Node

PREFIX = 24


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give a subnet to every node that has none, as long as the pool lasts."""
    del key, ids
    pool = _pool(view)
    if pool is None:
        return NOTHING
    bare = [node for node in view.nodes() if _needs(view, node, pool)]
    if not bare:
        return NOTHING
    taken = {node.subnet for node in view.nodes() if node.subnet}
    groups = [
        Group(
            (Update(msgspec.structs.replace(node, subnet=subnet, updated_at=now)),),
            reason=f"subnet {subnet} for the node's tasks",
        )
        for node, subnet in zip(bare, _free(pool, taken), strict=False)
    ]
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _pool(view: View) -> str | None:
    """The ingress network's, or the cluster's own while there is none."""
    ingress = ingress_of(view)
    if ingress is not None and ingress.allocated:
        return ingress.pools[0].subnet
    cluster = view.cluster()
    return cluster.node_pool if cluster is not None else None


def _needs(view: View, node: Node, pool: str) -> bool:
    if not node.subnet:
        return True
    if network_of(node.subnet).overlaps(network_of(pool)):
        return False
    return all(task.ended for task in view.tasks_of_node(node.id))


def _free(pool: str, taken: set[str]) -> Iterator[str]:
    network, services = network_of(pool), network_of(ingress_share(pool))
    if not isinstance(network, IPv4Network) or network.prefixlen > PREFIX:
        return
    for subnet in network.subnets(new_prefix=PREFIX):
        if str(subnet) not in taken and not subnet.overlaps(services):
            yield str(subnet)
