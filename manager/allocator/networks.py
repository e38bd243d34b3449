"""VNI and subnets of cluster networks. Pure; the only owner of both pools.

A network that cannot have what its user asked for waits, and the tasks on it say why. It is
given once: a network keeps its subnets for life.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manager.allocator import vni
from manager.allocator.pools import first_free, span_of, taken_by_others, unique_local
from manager.view import View
from shoal.model.addresses import network_of, text_of
from shoal.model.changes import NOTHING, Decision, Delete, Group, Update
from shoal.model.ids import IdSource, NetworkID
from shoal.model.objects import Cluster, Network, NetworkPool
from shoal.model.spec.network import VXLAN_IDS, IPAMConfig


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give one network what it lacks; all of it or nothing."""
    del ids
    network = view.network(NetworkID(key))
    cluster = view.cluster()
    if network is None or cluster is None or network.allocated or network.pending_delete:
        return NOTHING
    found = _allocate(view, network, cluster)
    if isinstance(found, str):
        return NOTHING
    number, pools = found
    changed = msgspec.structs.replace(network, vni=number, pools=pools, updated_at=now)
    subnets = ", ".join(pool.subnet for pool in pools)
    return Decision(groups=(Group((Update(changed),), reason=f"VNI {number}, {subnets}"),))


def finish(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Delete a removed network once the last task on it has ended."""
    del now, ids
    network = view.network(NetworkID(key))
    if network is None or not network.pending_delete or view.tasks_on_network(network.id):
        return NOTHING
    return Decision(groups=(Group((Delete(network),), reason="nothing is on it any more"),))


def why_unallocated(view: View, network: Network | None, target: str) -> str | None:
    """What tasks on a network wait for; None where it has what they need."""
    if network is None or network.pending_delete:
        name = network.name if network is not None else target
        return f"network {name} was removed"
    if network.allocated:
        return None
    cluster = view.cluster()
    if cluster is None:
        return f"network {network.name} has no subnet yet"
    found = _allocate(view, network, cluster)
    return found if isinstance(found, str) else f"network {network.name} has no subnet yet"


def _allocate(
    view: View, network: Network, cluster: Cluster
) -> tuple[int, tuple[NetworkPool, ...]] | str:
    if network.spec.ingress:
        named = [config.subnet for config in network.spec.ipam.config if config.subnet]
        return vni.GATEWAY, (NetworkPool(subnet=(named or [cluster.node_pool])[0]),)
    number = _vni(view, network)
    if isinstance(number, str):
        return number
    pools: list[NetworkPool] = []
    for config in _families(network):
        pool = _pool(view, network, cluster, config)
        if isinstance(pool, str):
            return pool
        pools.append(pool)
    return number, tuple(pools)


def _vni(view: View, network: Network) -> int | str:
    holders = {other.vni: other for other in view.networks() if other.id != network.id}
    wanted = int(network.spec.options.get(VXLAN_IDS, "0"))
    if not wanted:
        found = vni.choose(network.id, holders)
        return found if found is not None else "every VXLAN identifier is in use"
    if wanted in holders:
        held = _called(holders[wanted])
        return f"network {network.name}: VXLAN identifier {wanted} belongs to network {held}"
    return wanted


def _families(network: Network) -> Iterable[tuple[int, IPAMConfig]]:
    """The families it has and what its user said of each."""
    said: dict[int, IPAMConfig] = {
        network_of(config.subnet).version: config
        for config in network.spec.ipam.config
        if config.subnet
    }
    families = (4, 6) if network.spec.enable_ipv6 else (4,)
    return [(family, said.get(family, IPAMConfig())) for family in families]


def _pool(
    view: View, network: Network, cluster: Cluster, wanted: tuple[int, IPAMConfig]
) -> NetworkPool | str:
    family, config = wanted
    if not config.subnet:
        return _automatic(view, network, cluster, family)
    span = span_of(network_of(config.subnet))
    for other in view.networks():
        for pool in other.pools if other.id != network.id else ():
            first, last = span_of(network_of(pool.subnet))
            if first <= span[1] and span[0] <= last:
                return (
                    f"network {network.name}: subnet {config.subnet} overlaps with"
                    f" {pool.subnet} of network {_called(other)}"
                )
    return NetworkPool(
        subnet=config.subnet,
        gateway=config.gateway or _gateway(config),
        ip_range=config.ip_range,
        reserved=config.auxiliary_addresses,
    )


def _automatic(
    view: View, network: Network, cluster: Cluster, family: int
) -> NetworkPool | str:
    spans = taken_by_others(view, network.id, cluster)
    if family == 6:
        subnet: str | None = unique_local(network.id, spans)
    else:
        subnet = first_free(cluster.default_addr_pool, cluster.subnet_size, spans)
    if subnet is None:
        return (
            f"network {network.name}: no free /{cluster.subnet_size} subnet in"
            f" {', '.join(cluster.default_addr_pool)}: all are in use"
        )
    return NetworkPool(subnet=subnet, gateway=_gateway(IPAMConfig(subnet=subnet)))


def _gateway(config: IPAMConfig) -> str:
    """The first address of the subnet that is not reserved."""
    subnet = network_of(config.subnet)
    number = int(subnet.network_address) + 1
    while text_of(number, subnet.version) in config.auxiliary_addresses.values():
        number += 1
    return text_of(number, subnet.version)


def _called(network: Network) -> str:
    return f"{network.name}, which is being removed" if network.pending_delete else network.name
