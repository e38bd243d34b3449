"""Objects for the allocator's tests, and a pass of its rows over plain tables."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from manager.allocator import allocate, networks, ports, virtual_ips
from manager.control.canonical import canonical_service
from manager.control.networks import canonical_network
from manager.store.draft import Draft
from manager.store.tables import Tables
from manager.view import NetworkUse
from shoal.common.entropy import SeededIds
from shoal.model.addresses import number_of
from shoal.model.changes import Decision
from shoal.model.ids import ClusterID, NetworkID, ServiceID, TaskID
from shoal.model.objects import Cluster, Network, Service, Task, TaskStatus
from shoal.model.spec.network import IPAM, IPAMConfig, NetworkSpec
from shoal.model.spec.service import EndpointSpec, ServiceSpec
from shoal.model.spec.task import ContainerSpec, NetworkAttachmentConfig, TaskSpec
from shoal.model.states import TaskState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = SeededIds(1)


def cluster(**more: Any) -> Cluster:
    return Cluster(id=ClusterID("c" * 25), **more)


def network(name: str, subnet: str = "", **more: Any) -> Network:
    """Not allocated yet; its id is its name."""
    config = (IPAMConfig(subnet=subnet),) if subnet else ()
    spec = NetworkSpec(name=name, ipam=IPAM(config=more.pop("config", config)), **more)
    return Network(id=NetworkID(name), spec=canonical_network(spec))


def service(name: str, *on: str, **endpoint: Any) -> Service:
    """Its id is its name."""
    spec = ServiceSpec(
        name=name,
        task_template=TaskSpec(
            container_spec=ContainerSpec(image="x"),
            networks=tuple(NetworkAttachmentConfig(target=one) for one in on),
        ),
        endpoint_spec=EndpointSpec(**endpoint),
    )
    return Service(id=ServiceID(name), spec=canonical_service(spec))


def task(of: Service, name: str, state: TaskState = TaskState.NEW, **more: Any) -> Task:
    return Task(
        id=TaskID(name),
        service_id=of.id,
        spec_version=1,
        service_spec=of.spec,
        status=TaskStatus(state=state),
        **more,
    )


def tables(*things: Any) -> Tables:
    made = Tables()
    for thing in (cluster(), *things):
        made.put(thing)
    return made


def decided(into: Tables, decision: Decision) -> None:
    for group in decision.groups:
        for event in Draft(into).apply(group.changes):
            if event.after is None:
                into.drop(event.object.id)
            else:
                into.put(event.after)


def allocated(into: Tables) -> Tables:
    """All rows of the allocator once, over everything."""
    for one in list(into.networks()):
        decided(into, networks.decide(into, one.id, NOW, IDS))
    for row in (ports, virtual_ips, allocate):
        for each in list(into.services()):
            decided(into, row.decide(into, each.id, NOW, IDS))
    for one in list(into.networks()):
        decided(into, networks.finish(into, one.id, NOW, IDS))
    return into


def places(of: Tables, name: str) -> list[str]:
    """The addresses of one task."""
    found = of.task(TaskID(name))
    assert found is not None
    return [address for one in found.networks for address in one.addresses]


def recomputed(view: Tables, identity: str) -> NetworkUse:
    """What is held of a network, counted from nothing."""
    use = NetworkUse()
    holders: list[str] = [
        address
        for one in view.tasks()
        if not one.ended
        for place in one.networks
        if place.network_id == identity
        for address in place.addresses
    ]
    holders += [
        ip.addr
        for one in view.services()
        for ip in one.endpoint.virtual_ips
        if ip.network_id == identity
    ]
    for address in holders:
        number = number_of(address)
        use.taken[number] = use.taken.get(number, 0) + 1
    for one in view.tasks():
        waits = one.status.state is TaskState.NEW and one.status.err and not one.networks
        if waits and one.wanted and identity in _targets(one):
            use.waiting[one.service_id] = use.waiting.get(one.service_id, 0) + 1
    return use


def _targets(one: Task) -> Iterable[str]:
    return [place.target for place in one.spec.networks]
