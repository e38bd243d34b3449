"""Virtual IPs of services, one a network and family. Pure.

A service keeps its addresses across updates. On a network that it leaves, it keeps the address
until its last task there has ended, so that what still talks to it finds it.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manager.allocator.addresses import Giver, exhausted
from manager.view import View, ingress_of
from shoal.model.addresses import family_of, network_of
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.defaults import endpoint_of, mesh_ports
from shoal.model.ids import IdSource, NetworkID, ServiceID
from shoal.model.objects import Network, NetworkPool, Service, VirtualIP

DNSRR = "dnsrr"


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give one service the virtual IPs it lacks and take back those it needs no more."""
    del ids
    service = view.service(ServiceID(key))
    if service is None:
        return NOTHING
    giver = Giver(view)
    found: list[VirtualIP] = []
    for network, pool in _wanted(view, service):
        have = _held(service, network, pool)
        address = have or giver.give(network, pool)
        if address is not None:
            found.append(VirtualIP(network_id=network.id, addr=address))
    found.extend(_lingering(view, service))
    if tuple(found) == service.endpoint.virtual_ips:
        return NOTHING
    endpoint = msgspec.structs.replace(service.endpoint, virtual_ips=tuple(found))
    changed = msgspec.structs.replace(service, endpoint=endpoint, updated_at=now)
    return Decision(groups=(Group((Update(changed),), reason="virtual IPs"),))


def why_unallocated(view: View, service: Service) -> str | None:
    """Which virtual IP the service waits for; None where it has them."""
    for network, pool in _wanted(view, service):
        if not network.spec.ingress and _held(service, network, pool) is None:
            return exhausted(network, pool)
    return None


def lacking(view: View, service: Service) -> bool:
    """Whether an address that is let go, or a network that has got its, may be its own."""
    return any(
        _held(service, network, pool) is None for network, pool in _wanted(view, service)
    )


def _wanted(view: View, service: Service) -> Iterable[tuple[Network, NetworkPool]]:
    """The pools it gets an address of, the ingress network's first."""
    if endpoint_of(service.spec).mode == DNSRR:
        return
    ingress = ingress_of(view) if mesh_ports(endpoint_of(service.spec).ports) else None
    if ingress is not None:
        yield from ((ingress, pool) for pool in ingress.pools)
    for target in dict.fromkeys(one.target for one in service.spec.task_template.networks):
        found = view.network(NetworkID(target))
        if found is not None:
            yield from ((found, pool) for pool in found.pools)


def _held(service: Service, network: Network, pool: NetworkPool) -> str | None:
    family = network_of(pool.subnet).version
    for ip in service.endpoint.virtual_ips:
        if ip.network_id == network.id and family_of(ip.addr) == family:
            return ip.addr
    return None


def _lingering(view: View, service: Service) -> Iterable[VirtualIP]:
    """Addresses on networks that it has left and still has tasks on."""
    if endpoint_of(service.spec).mode == DNSRR:
        return ()
    named = {one.target for one in service.spec.task_template.networks}
    left = [ip for ip in service.endpoint.virtual_ips if ip.network_id not in named]
    if not left:
        return ()
    there = {
        one.network_id
        for task in view.tasks_of_service(service.id)
        if not task.ended
        for one in task.networks
    }
    return [ip for ip in left if ip.network_id in there]
