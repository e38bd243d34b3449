"""Subnets for networks whose users named none. Pure.

IPv4: the first of the cluster's pools that meets no other network, no node's addresses and not
the pool of the nodes. IPv6: a unique local /64 that follows from the network's id.
"""

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network

from manager.view import View
from shoal.model.addresses import AnyNetwork, network_of, number_of
from shoal.model.ids import NetworkID
from shoal.model.objects import Cluster, Network, Node

Span = tuple[int, int]


def span_of(subnet: AnyNetwork) -> Span:
    """First and last address as numbers."""
    return int(subnet.network_address), int(subnet.broadcast_address)


def first_free(pools: Sequence[str], size: int, taken: Iterable[Span]) -> str | None:
    """The first subnet with the prefix length `size` that meets nothing that is taken."""
    spans = sorted(taken)
    for pool in pools:
        found = _first_free(network_of(pool), size, spans)
        if found is not None:
            return found
    return None


def _first_free(pool: AnyNetwork, size: int, spans: Sequence[Span]) -> str | None:
    if not isinstance(pool, IPv4Network) or size < pool.prefixlen:
        return None
    begin, end = span_of(pool)
    step = 1 << (pool.max_prefixlen - size)
    start = begin
    for first, last in spans:
        if last < start:
            continue
        if first >= start + step:
            break
        start = begin + ((last + 1 - begin) + step - 1) // step * step
    return f"{IPv4Network((start, size))}" if start + step - 1 <= end else None


def unique_local(network: NetworkID, taken: Collection[Span]) -> str:
    """A /64 below fd00::/8; collisions are next to impossible and are looked out for."""
    attempt = 0
    while True:
        digest = blake2b(f"{network}/{attempt}".encode(), digest_size=7).digest()
        subnet = IPv6Network((b"\xfd" + digest + bytes(8), 64))
        first, last = span_of(subnet)
        if all(last < low or first > high for low, high in taken):
            return str(subnet)
        attempt += 1


def subnets_of(network: Network) -> Iterable[str]:
    """The subnets that a network has, or will have because its user named them."""
    if network.pools:
        return [pool.subnet for pool in network.pools]
    return [config.subnet for config in network.spec.ipam.config if config.subnet]


def taken_by_others(view: View, network: NetworkID, cluster: Cluster) -> list[Span]:
    """What an automatic subnet must not meet."""
    spans = [
        span_of(network_of(subnet))
        for other in view.networks()
        if other.id != network
        for subnet in subnets_of(other)
    ]
    spans.append(span_of(network_of(cluster.node_pool)))
    spans.extend(_addresses_of(view.nodes()))
    return spans


def _addresses_of(nodes: Iterable[Node]) -> Iterable[Span]:
    """Nodes say what their addresses are, so that anything may stand there."""
    for node in nodes:
        for text in {node.addr, node.data_path_addr}:
            try:
                number = number_of(text)
            except ValueError:
                continue
            yield number, number
