"""The read-only cluster as deciders see it: finders over tables and indexes, nothing else.

Implemented by `manager.store.memory` (the fed copy) and `manager.store.draft` (that copy
overlaid with the changes of one pass). Iteration is always in the order of ids, so that a
decision never depends on the order of a set. Sequences that are returned must not be kept
across an await.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
from msgspec import field

from shoal.model.ids import ConfigID, NetworkID, NodeID, SecretID, ServiceID, TaskID
from shoal.model.objects import (
    Cluster,
    Config,
    Network,
    Node,
    Secret,
    Service,
    ServiceVersion,
    Task,
)


class NodeTotals(msgspec.Struct, kw_only=True, gc=False):
    """What the tasks on a node take together, kept by difference; for readers, never written.

    Counted is every task assigned to the node that is desired to run and has not ended: its
    reservations and its number (all, by service). One that is only stopping yet still holds
    what two cannot have: host-mode ports as (protocol, port), units of discrete generic
    resources and names of named ones.
    """

    nano_cpus: int = 0
    memory_bytes: int = 0
    tasks: int = 0
    by_service: dict[ServiceID, int] = field(default_factory=dict)
    host_ports: dict[tuple[str, int], int] = field(default_factory=dict)
    discrete: dict[str, int] = field(default_factory=dict)
    named: dict[tuple[str, str], int] = field(default_factory=dict)


NO_TOTALS = NodeTotals()


class NetworkUse(msgspec.Struct, kw_only=True, gc=False):
    """Who holds addresses of a network, kept by difference; for readers, never written.

    Attributes:
        taken: the addresses, as numbers, of tasks that have not ended and of services'
            virtual IPs, and how many hold each (more than one is a fault).
        last: the address that was taken last, by family.
        waiting: new tasks with a reason to wait, by service.
    """

    taken: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    waiting: dict[ServiceID, int] = field(default_factory=dict)


NO_USE = NetworkUse()


class View(Protocol):
    """All that a decider may know."""

    @property
    def revision(self) -> int:
        """The store revision that this view has reached."""
        ...

    def cluster(self) -> Cluster | None: ...

    def node(self, node: NodeID) -> Node | None: ...

    def nodes(self) -> Iterable[Node]: ...

    def totals(self, node: NodeID) -> NodeTotals:
        """Totals of a node; `NO_TOTALS` where nothing runs."""
        ...

    def service(self, service: ServiceID) -> Service | None: ...

    def services(self) -> Iterable[Service]: ...

    def service_named(self, name: str) -> Service | None: ...

    def versions_of_service(self, service: ServiceID) -> Sequence[ServiceVersion]:
        """The stored specs of a service, also of one that is gone."""
        ...

    def task(self, task: TaskID) -> Task | None: ...

    def tasks(self) -> Iterable[Task]: ...

    def tasks_of_service(self, service: ServiceID) -> Sequence[Task]: ...

    def tasks_of_node(self, node: NodeID) -> Sequence[Task]: ...

    def pending_tasks(self) -> Iterable[Task]:
        """Tasks in NEW or PENDING that are desired to run: the scheduler's work."""
        ...

    def attached_tasks(self) -> Sequence[Task]:
        """Tasks that stand for persons' containers; they belong to no service."""
        ...

    def network(self, network: NetworkID) -> Network | None: ...

    def networks(self) -> Iterable[Network]: ...

    def network_use(self, network: NetworkID) -> NetworkUse:
        """Addresses held on a network; `NO_USE` where there are none."""
        ...

    def tasks_on_network(self, network: NetworkID) -> Sequence[Task]:
        """Tasks that have a place on it and have not ended."""
        ...

    def services_on_network(self, network: NetworkID) -> Sequence[Service]:
        """Services whose present spec names it."""
        ...

    def secret(self, secret: SecretID) -> Secret | None: ...

    def secrets(self) -> Iterable[Secret]: ...

    def config(self, config: ConfigID) -> Config | None: ...

    def configs(self) -> Iterable[Config]: ...


def ingress_of(view: View) -> Network | None:
    """The ingress network, if it has not been removed."""
    there = (one for one in view.networks() if one.spec.ingress and not one.pending_delete)
    return next(there, None)
