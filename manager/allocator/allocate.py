"""NEW tasks become PENDING with their addresses, once their service's part is there. Pure.

Wakes on a service and its new tasks, and when addresses are let go that they wait for; runs
before the scheduler. Where something is not to be had, the tasks wait and say why. An address
is a task's own from here until it has ended.
"""

from datetime import datetime

import msgspec

from manager.allocator import networks, ports, virtual_ips
from manager.allocator.addresses import Giver, exhausted
from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.defaults import is_on_host_network
from shoal.model.ids import IdSource, NetworkID, ServiceID
from shoal.model.objects import NetworkAttachment, Service, Task, TaskStatus
from shoal.model.states import TaskState

MESSAGE = "pending task scheduling"


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Pass on the new tasks of one service, or say what they wait for."""
    del ids
    service = view.service(ServiceID(key))
    if service is None:
        return NOTHING
    new = [
        task
        for task in view.tasks_of_service(service.id)
        if task.status.state is TaskState.NEW and task.wanted
    ]
    if not new:
        return NOTHING
    lack = _why_unallocated(view, service)
    giver = Giver(view)
    groups = []
    for task in new:
        found = lack or attach(view, giver, task)
        changed = _next(task, found, now)
        if changed is not None:
            reason = found if isinstance(found, str) else "nothing to wait for"
            groups.append(Group((Update(changed),), reason=reason))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def _why_unallocated(view: View, service: Service) -> str | None:
    """What all tasks of the service wait for."""
    lack = ports.why_unallocated(view, service)
    if lack is not None:
        return lack
    if is_on_host_network(service.spec.task_template):
        return None
    for one in service.spec.task_template.networks:
        network = view.network(NetworkID(one.target))
        lack = networks.why_unallocated(view, network, one.target)
        if lack is not None:
            return lack
    return virtual_ips.why_unallocated(view, service)


def attach(view: View, giver: Giver, task: Task) -> tuple[NetworkAttachment, ...] | str:
    """A place on each network of the task, or the sentence of the one that has none left."""
    if is_on_host_network(task.spec):
        return ()
    found: list[NetworkAttachment] = []
    for one in task.network_wishes:
        network = view.network(NetworkID(one.target))
        lack = networks.why_unallocated(view, network, one.target)
        if network is None or lack is not None:
            return lack or f"network {one.target} was removed"
        addresses: list[str] = []
        for pool in network.pools:
            address = giver.give(network, pool)
            if address is None:
                return exhausted(network, pool)
            addresses.append(address)
        found.append(
            NetworkAttachment(
                network_id=network.id, addresses=tuple(addresses), aliases=one.aliases
            )
        )
    return tuple(found)


def _next(task: Task, found: tuple[NetworkAttachment, ...] | str, now: datetime) -> Task | None:
    if not isinstance(found, str):
        status = TaskStatus(state=TaskState.PENDING, timestamp=now, message=MESSAGE)
        return msgspec.structs.replace(task, networks=found, status=status, updated_at=now)
    if task.status.err == found:
        return None
    status = TaskStatus(state=TaskState.NEW, timestamp=now, message=found, err=found)
    return msgspec.structs.replace(task, status=status, updated_at=now)
