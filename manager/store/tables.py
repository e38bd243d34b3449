"""Tables of objects with their indexes, in layers: the one implementation of `View`'s finders.

`Memory` is a bottom layer; a `Draft` is a layer over it that holds only what one pass changed.
A layer copies a bucket (the tasks of one service, the totals of one node) from below when it
first writes to it. Totals are kept by difference; a property test recomputes them from nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from manager.store.uses import NOTHING_HELD, Held, bump, held_by, use_network
from manager.view import NO_TOTALS, NO_USE, NetworkUse, NodeTotals
from shoal.model.defaults import endpoint_of, is_host_port
from shoal.model.ids import ConfigID, NetworkID, NodeID, SecretID, ServiceID, TaskID
from shoal.model.objects import (
    Cluster,
    Config,
    Network,
    Node,
    Secret,
    Service,
    ServiceVersion,
    StoredObject,
    Task,
)
from shoal.model.states import TaskState

T = TypeVar("T")


class Bucket:
    """Objects by id, iterated in the order of ids; sorted when read, not when written."""

    __slots__ = ("_ordered", "items")

    def __init__(self, items: dict[str, Any]) -> None:
        self.items = items
        self._ordered: tuple[Any, ...] | None = None

    def put(self, identity: str, thing: Any) -> None:
        self.items[identity] = thing
        self._ordered = None

    def drop(self, identity: str) -> None:
        self.items.pop(identity, None)
        self._ordered = None

    def ordered(self) -> tuple[Any, ...]:
        """All objects, by id."""
        if self._ordered is None:
            items = self.items
            self._ordered = tuple([items[identity] for identity in sorted(items)])
        return self._ordered


def _index_keys(thing: StoredObject) -> list[tuple[str, str]]:
    """The buckets an object is found in, as (index, key)."""
    match thing:
        case Task():
            if thing.attached is not None:
                found = [("attached", "")]
            else:
                found = [("service of", thing.service_id)]
                if thing.status.state <= TaskState.PENDING and thing.wanted:
                    found.append(("pending", ""))
            if thing.node_id is not None:
                found.append(("node of", thing.node_id))
            if thing.networks and not thing.ended:
                found.extend(("task on", one.network_id) for one in thing.networks)
            return found
        case ServiceVersion():
            return [("version of", thing.service_id)]
        case Service():
            networks = thing.spec.task_template.networks
            on = [("service on", one.target) for one in networks]
            return [("service", ""), ("name", thing.spec.name), *on]
        case _:
            return [(type(thing).__name__.lower(), "")]


class Tables:
    """One layer. `revision` is that of the bottom layer."""

    def __init__(self, below: "Tables | None" = None) -> None:
        self._below = below
        self._things: dict[str, StoredObject | None] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._totals: dict[NodeID, NodeTotals] = {}
        self._uses: dict[NetworkID, NetworkUse] = {}
        self._revision = 0

    @property
    def revision(self) -> int:
        return self._revision if self._below is None else self._below.revision

    # -- reading -------------------------------------------------------------------------------

    def find(self, identity: str) -> StoredObject | None:
        """Any object by its id; ids of different kinds never meet."""
        layer: Tables | None = self
        while layer is not None:
            if identity in layer._things:
                return layer._things[identity]
            layer = layer._below
        return None

    def bucket(self, index: str, key: str = "") -> Sequence[Any]:
        """The objects under one key of an index, by id."""
        found = self._bucket((index, key))
        return found.ordered() if found is not None else ()

    def _bucket(self, key: tuple[str, str]) -> Bucket | None:
        layer: Tables | None = self
        while layer is not None:
            found = layer._buckets.get(key)
            if found is not None:
                return found
            layer = layer._below
        return None

    def _typed(self, identity: str, kind: type[T]) -> T | None:
        found = self.find(identity)
        return found if isinstance(found, kind) else None

    def cluster(self) -> Cluster | None:
        found = self.bucket("cluster")
        return cast("Cluster", found[0]) if found else None

    def node(self, node: NodeID) -> Node | None:
        return self._typed(node, Node)

    def nodes(self) -> Iterable[Node]:
        return self.bucket("node")

    def service(self, service: ServiceID) -> Service | None:
        return self._typed(service, Service)

    def services(self) -> Iterable[Service]:
        return self.bucket("service")

    def service_named(self, name: str) -> Service | None:
        found = self.bucket("name", name)
        return cast("Service", found[0]) if found else None

    def versions_of_service(self, service: ServiceID) -> Sequence[ServiceVersion]:
        return self.bucket("version of", service)

    def task(self, task: TaskID) -> Task | None:
        return self._typed(task, Task)

    def tasks(self) -> Iterable[Task]:
        """All tasks, by id; gathered anew at each call, so not for hot paths."""
        seen: dict[str, StoredObject | None] = {}
        layer: Tables | None = self
        while layer is not None:
            seen = {**layer._things, **seen}
            layer = layer._below
        found = [thing for thing in seen.values() if isinstance(thing, Task)]
        return sorted(found, key=lambda task: task.id)

    def tasks_of_service(self, service: ServiceID) -> Sequence[Task]:
        return self.bucket("service of", service)

    def tasks_of_node(self, node: NodeID) -> Sequence[Task]:
        return self.bucket("node of", node)

    def pending_tasks(self) -> Iterable[Task]:
        return self.bucket("pending")

    def attached_tasks(self) -> Sequence[Task]:
        return self.bucket("attached")

    def network(self, network: NetworkID) -> Network | None:
        return self._typed(network, Network)

    def networks(self) -> Iterable[Network]:
        return self.bucket("network")

    def network_use(self, network: NetworkID) -> NetworkUse:
        layer: Tables | None = self
        while layer is not None:
            found = layer._uses.get(network)
            if found is not None:
                return found
            layer = layer._below
        return NO_USE

    def tasks_on_network(self, network: NetworkID) -> Sequence[Task]:
        return self.bucket("task on", network)

    def services_on_network(self, network: NetworkID) -> Sequence[Service]:
        return self.bucket("service on", network)

    def secret(self, secret: SecretID) -> Secret | None:
        return self._typed(secret, Secret)

    def secrets(self) -> Iterable[Secret]:
        return self.bucket("secret")

    def config(self, config: ConfigID) -> Config | None:
        return self._typed(config, Config)

    def configs(self) -> Iterable[Config]:
        return self.bucket("config")

    def totals(self, node: NodeID) -> NodeTotals:
        layer: Tables | None = self
        while layer is not None:
            found = layer._totals.get(node)
            if found is not None:
                return found
            layer = layer._below
        return NO_TOTALS

    # -- writing -------------------------------------------------------------------------------

    def put(self, thing: StoredObject) -> StoredObject | None:
        """Set an object; returns what stood there before."""
        before = self.find(thing.id)
        if before is not None:
            self._unindex(before)
        self._things[thing.id] = thing
        for key in _index_keys(thing):
            self._own(key).put(thing.id, thing)
        if isinstance(thing, Task):
            self._count(thing, 1)
        self._use(held_by(before), held_by(thing))
        return before

    def drop(self, identity: str) -> StoredObject | None:
        """Take an object out; returns it."""
        before = self.find(identity)
        if before is None:
            return None
        self._unindex(before)
        if self._below is None:
            del self._things[identity]
        else:
            self._things[identity] = None
        self._use(held_by(before), NOTHING_HELD)
        if isinstance(before, Network):
            self._forget_use(before.id)
        return before

    def _unindex(self, thing: StoredObject) -> None:
        for key in _index_keys(thing):
            bucket = self._own(key)
            bucket.drop(thing.id)
            if self._below is None and not bucket.items:
                del self._buckets[key]
        if isinstance(thing, Task):
            self._count(thing, -1)

    def _own(self, key: tuple[str, str]) -> Bucket:
        own = self._buckets.get(key)
        if own is None:
            below = self._below._bucket(key) if self._below is not None else None
            own = Bucket(dict(below.items) if below is not None else {})
            self._buckets[key] = own
        return own

    def _count(self, task: Task, sign: int) -> None:
        if task.node_id is None or task.ended or task.status.state < TaskState.ASSIGNED:
            return
        if task.attached is not None:
            return  # a person's container takes nothing that tasks are placed by
        own = self._totals.get(task.node_id)
        if own is None:
            own = self._totals[task.node_id] = _copy(self.totals(task.node_id))
        add_task(own, task, sign)
        if self._below is None and own == NO_TOTALS:
            del self._totals[task.node_id]

    def _use(self, before: Held, after: Held) -> None:
        """Let go of what one form of an object held, take what the next one holds."""
        if before == after:
            return
        for held, sign in ((before.less(after), -1), (after.less(before), 1)):
            for network in held.networks:
                use_network(self._own_use(network), held, network, sign)
        for network in before.networks:
            self._forget_use(network)

    def _forget_use(self, network: NetworkID) -> None:
        """Where the last address was taken is remembered as long as the network is there."""
        own = self._uses.get(network)
        if own is None or self._below is not None or self.network(network) is not None:
            return
        if not own.taken and not own.waiting:
            del self._uses[network]

    def _own_use(self, network: NetworkID) -> NetworkUse:
        own = self._uses.get(network)
        if own is None:
            below = self.network_use(network)
            own = self._uses[network] = NetworkUse(
                taken=dict(below.taken), last=dict(below.last), waiting=dict(below.waiting)
            )
        return own


def _copy(totals: NodeTotals) -> NodeTotals:
    return NodeTotals(
        nano_cpus=totals.nano_cpus,
        memory_bytes=totals.memory_bytes,
        tasks=totals.tasks,
        by_service=dict(totals.by_service),
        host_ports=dict(totals.host_ports),
        discrete=dict(totals.discrete),
        named=dict(totals.named),
    )


def add_task(totals: NodeTotals, task: Task, sign: int) -> None:
    """Add a task to totals (sign 1) or take it out (sign -1)."""
    _add_exclusive(totals, task, sign)
    if not task.wanted:
        return
    totals.tasks += sign
    bump(totals.by_service, task.service_id, sign)
    resources = task.spec.resources
    if resources is not None and resources.reservations is not None:
        totals.nano_cpus += sign * resources.reservations.nano_cpus
        totals.memory_bytes += sign * resources.reservations.memory_bytes


def _add_exclusive(totals: NodeTotals, task: Task, sign: int) -> None:
    """What no other task may have before this one has ended."""
    for generic in task.generic_resources:
        if generic.discrete_resource_spec is not None:
            discrete = generic.discrete_resource_spec
            bump(totals.discrete, discrete.kind, sign * discrete.value)
        if generic.named_resource_spec is not None:
            named = generic.named_resource_spec
            bump(totals.named, (named.kind, named.value), sign)
    for port in endpoint_of(task.service_spec).ports:
        if is_host_port(port) and port.published_port:
            bump(totals.host_ports, (port.protocol or "tcp", port.published_port), sign)
