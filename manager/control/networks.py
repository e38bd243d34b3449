"""Cluster networks: create, remove, prune. Subnets and identifiers are the allocator's.

A network is removed at once for its users, and goes when the last task on it has ended: what
merely stops there does not stand in the way.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manager.allocator import vni
from manager.control.lookup import find_network, networks_of
from manager.control.waiting import shows
from manager.control.writing import Writer
from manager.store.memory import Memory
from manager.view import View, ingress_of
from shoal.common.clock import Clock
from shoal.model.addresses import network_of
from shoal.model.changes import Create, Group, Update
from shoal.model.defaults import endpoint_of, mesh_ports
from shoal.model.errors import AlreadyExists
from shoal.model.ids import IdSource, NetworkID
from shoal.model.objects import Cluster, Network, NetworkPool, Service, Task
from shoal.model.spec.network import IPAM, NetworkSpec
from shoal.model.validate.network import check_network
from shoal.model.validate.refusal import invalid, precondition

INGRESS = "ingress"
GIVEN_SECONDS = 0.5
"""So long a creation waits for its subnets; without a leader, or any left, it has none yet."""


class Networks:
    """The operations on cluster networks."""

    def __init__(self, writer: Writer, memory: Memory, clock: Clock, ids: IdSource) -> None:
        self._writer = writer
        self._memory = memory
        self._clock = clock
        self._ids = ids

    async def create(self, spec: NetworkSpec) -> NetworkID:
        """A new network; the leader gives it subnets, which is waited for a moment."""
        check_network(spec)
        full = canonical_network(spec)
        identity = NetworkID(self._ids.new())

        def decide() -> tuple[Group, NetworkID]:
            if any(one.name == full.name for one in networks_of(self._memory)):
                raise AlreadyExists(f"network with name {full.name} already exists")
            if full.ingress:
                self._check_ingress()
            check_subnets(self._memory, full)
            now = self._clock.now()
            network = Network(id=identity, created_at=now, updated_at=now, spec=full)
            return Group((Create(network),), f"network {full.name} created"), identity

        await self._writer.write(decide)
        await shows(self._memory, lambda: self._given(identity), GIVEN_SECONDS)
        return identity

    def _given(self, identity: NetworkID) -> bool:
        network = self._memory.network(identity)
        return network is None or network.allocated

    async def remove(self, text: str) -> None:
        """Take a network away that nothing is meant to run on."""

        def decide() -> tuple[Group, None]:
            network = find_network(self._memory, text)
            check_unused(self._memory, network)
            return self._removed(network), None

        await self._writer.write(decide)

    async def remove_if_unused(self, network: NetworkID) -> bool:
        """Whether it was there, unused, and is removed now."""

        def decide() -> tuple[Group, bool]:
            found = self._memory.network(network)
            if found is None or found.pending_delete or in_use(self._memory, found):
                return Group(()), False
            return self._removed(found), True

        return await self._writer.write(decide)

    def _removed(self, network: Network) -> Group:
        changed = msgspec.structs.replace(
            network, pending_delete=True, updated_at=self._clock.now()
        )
        return Group((Update(changed),), f"network {network.name} removed")

    def _check_ingress(self) -> None:
        present = ingress_of(self._memory)
        if present is not None:
            raise AlreadyExists(f"ingress network ({present.id}) is already present")


def canonical_network(spec: NetworkSpec) -> NetworkSpec:
    """Driver and scope said."""
    ipam = msgspec.structs.replace(spec.ipam, driver=spec.ipam.driver or "default")
    return msgspec.structs.replace(
        spec,
        driver=spec.driver or "overlay",
        scope="swarm",
        enable_ipv4=True,
        ipam=ipam,
        check_duplicate=False,
    )


def ingress_network(identity: NetworkID, cluster: Cluster, now: datetime) -> Network:
    """The network that a new cluster publishes ports with."""
    spec = NetworkSpec(name=INGRESS, ingress=True, ipam=IPAM())
    return Network(
        id=identity,
        created_at=now,
        updated_at=now,
        spec=canonical_network(spec),
        vni=vni.GATEWAY,
        pools=(NetworkPool(subnet=cluster.node_pool),),
    )


def check_subnets(view: View, spec: NetworkSpec) -> None:
    """Subnets that the user names meet no other network's, nor those of the nodes."""
    taken = {
        subnet: f"network {other.name}"
        for other in networks_of(view)
        for subnet in _subnets(other)
    }
    cluster = view.cluster()
    if cluster is not None and not spec.ingress:
        taken.setdefault(cluster.node_pool, "the nodes' own network")
    for position, config in enumerate(spec.ipam.config):
        if not config.subnet:
            continue
        for subnet, holder in taken.items():
            if network_of(config.subnet).overlaps(network_of(subnet)):
                raise invalid(
                    f"IPAM.Config[{position}].Subnet",
                    f"Pool overlaps with other one on this address space: {config.subnet}"
                    f" overlaps with {subnet} of {holder}",
                )


def _subnets(network: Network) -> Iterable[str]:
    named = (config.subnet for config in network.spec.ipam.config if config.subnet)
    return {*named, *(pool.subnet for pool in network.pools)}


def users_of(view: View, network: Network) -> tuple[list[Service], list[Task]]:
    """Services that name a network, and other tasks that are meant to stay on it."""
    if network.spec.ingress:
        return [one for one in view.services() if _publishes(one)], []
    services = list(view.services_on_network(network.id))
    named = {service.id for service in services}
    tasks = [
        task
        for task in view.tasks_on_network(network.id)
        if task.wanted and task.service_id not in named and _stays(view, task)
    ]
    return services, [*tasks, *_attached(view, network)]


def _stays(view: View, task: Task) -> bool:
    """A task of a service that is gone is about to stop, whether it was told yet or not."""
    return view.service(task.service_id) is not None


def _attached(view: View, network: Network) -> Iterable[Task]:
    """Persons' containers on it, whether they have their addresses yet or not."""
    for task in view.attached_tasks():
        if task.attached is not None and task.attached.network_id == network.id:
            yield task


def in_use(view: View, network: Network) -> bool:
    """Whether something is meant to stay on it; the ingress network always counts as used."""
    services, tasks = users_of(view, network)
    return bool(services or tasks or network.spec.ingress)


def check_unused(view: View, network: Network) -> None:
    """Refuse to take away what something needs, naming it."""
    services, tasks = users_of(view, network)
    if network.spec.ingress and services:
        raise precondition(
            f"ingress network cannot be removed because service {services[0].id}"
            f" ({services[0].spec.name}) depends on it"
        )
    if services:
        word = "service" if len(services) == 1 else "services"
        names = ", ".join(sorted(service.spec.name for service in services))
        raise precondition(f"network {network.name} is in use by {word} {names}")
    for word, users in (
        ("task", [task for task in tasks if task.attached is None]),
        ("container", [task for task in tasks if task.attached is not None]),
    ):
        if users:
            word += "s" if len(users) > 1 else ""
            names = ", ".join(sorted(task.name for task in users))
            raise precondition(f"network {network.name} is in use by {word} {names}")


def _publishes(service: Service) -> bool:
    return bool(mesh_ports(endpoint_of(service.spec).ports))
