"""Addresses for persons' containers on attachable networks. Pure.

Keyed by the task that stands for one. Addresses that were asked for are given or the task says
why not; of a family without a wish the next free one is given. From then on the task has its
place: its node is known from the beginning and there is nothing to schedule.
"""

from datetime import datetime

import msgspec

from manager.allocator import networks
from manager.allocator.addresses import Giver, exhausted, range_of_pool
from manager.view import View
from shoal.model.addresses import bare, family_of, network_of, number_of
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.ids import IdSource, TaskID
from shoal.model.objects import (
    Attached,
    Network,
    NetworkAttachment,
    NetworkPool,
    Task,
    TaskStatus,
)
from shoal.model.states import TaskState

MESSAGE = "attached by hand"


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give one container its place on its network, or say what it waits for."""
    del ids
    task = view.task(TaskID(key))
    if task is None or task.attached is None or task.status.state is not TaskState.NEW:
        return NOTHING
    found = _place(view, task.attached)
    if isinstance(found, str):
        if task.status.err == found:
            return NOTHING
        status = TaskStatus(state=TaskState.NEW, timestamp=now, message=found, err=found)
        changed = msgspec.structs.replace(task, status=status, updated_at=now)
        return Decision(groups=(Group((Update(changed),), reason=found),))
    status = TaskStatus(state=TaskState.ASSIGNED, timestamp=now, message=MESSAGE)
    changed = msgspec.structs.replace(task, networks=(found,), status=status, updated_at=now)
    return Decision(groups=(Group((Update(changed),), reason=MESSAGE),))


def _place(view: View, wanted: Attached) -> NetworkAttachment | str:
    network = view.network(wanted.network_id)
    lack = networks.why_unallocated(view, network, wanted.network_id)
    if network is None or lack is not None:
        return lack or f"network {wanted.network_id} was removed"
    asked = {family_of(address): address for address in wanted.addresses}
    giver = Giver(view)
    addresses: list[str] = []
    for pool in network.pools:
        address = asked.pop(network_of(pool.subnet).version, "")
        if address:
            lack = _why_not(view, network, pool, address)
            if lack is not None:
                return lack
            addresses.append(f"{address}/{network_of(pool.subnet).prefixlen}")
        elif (given := giver.give(network, pool)) is not None:
            addresses.append(given)
        else:
            return exhausted(network, pool)
    for family, address in asked.items():
        return f"network {network.name} has no IPv{family} subnet for address {address}"
    return NetworkAttachment(
        network_id=network.id, addresses=tuple(addresses), aliases=wanted.aliases
    )


def _why_not(view: View, network: Network, pool: NetworkPool, address: str) -> str | None:
    """Why a container cannot have an address; None where it can."""
    subnet, number = network_of(pool.subnet), number_of(address)
    if not int(subnet.network_address) <= number <= int(subnet.broadcast_address):
        return f"address {address} is not in subnet {pool.subnet} of network {network.name}"
    whole = msgspec.structs.replace(pool, ip_range="")
    if number in range_of_pool(network, whole).excluded:
        return f"address {address} of network {network.name} is reserved"
    if number in view.network_use(network.id).taken:
        holder = _holder(view, network, number)
        return f"address {address} of network {network.name} is already in use by {holder}"
    return None


def _holder(view: View, network: Network, number: int) -> str:
    """Who has an address, as people call it."""
    for task in view.tasks_on_network(network.id):
        if _has(task, network, number):
            return f"container {task.name}" if task.attached else f"task {task.name}"
    for service in view.services_on_network(network.id):
        ips = service.endpoint.virtual_ips
        if any(
            ip.network_id == network.id and number_of(bare(ip.addr)) == number for ip in ips
        ):
            return f"service {service.spec.name}"
    return "another one"


def _has(task: Task, network: Network, number: int) -> bool:
    return any(
        number_of(bare(address)) == number
        for place in task.networks
        if place.network_id == network.id
        for address in place.addresses
    )
