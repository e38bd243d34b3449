"""What the hosts of a network are told of it: itself, its endpoints, its services. Pure.

Made once a change and shared by all nodes that have a task there. What did not change is the
same object as before, so that comparing what a node was told last is cheap. A change of tasks
costs what it changes, any other one the whole network.
"""

from collections.abc import Iterable, Mapping

import msgspec

from manager.dispatcher.context import context_of, is_down, runs, serves
from manager.view import View
from shoal.model.addresses import bare, mac_of_endpoint
from shoal.model.assignment import (
    AssignedNetwork,
    NetworkEndpoint,
    NetworkService,
    Subnet,
    TaskNetwork,
)
from shoal.model.changes import Event, Failure
from shoal.model.defaults import endpoint_of
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import (
    Endpoint,
    Network,
    NetworkAttachment,
    Node,
    Service,
    StoredObject,
    Task,
)
from shoal.model.spec.network import is_encrypted, mtu_of
from shoal.model.states import TaskState
from shoal.model.template import expand


class NetworkPart(msgspec.Struct, frozen=True, kw_only=True):
    """One network as every node on it is told. Endpoints and services stand under their key."""

    network: AssignedNetwork
    endpoints: Mapping[str, NetworkEndpoint]
    services: Mapping[str, NetworkService]


class _Origin(msgspec.Struct, frozen=True):
    """What an endpoint was made of; while it is the same, so is the endpoint."""

    task: Task
    node: Node
    endpoint: NetworkEndpoint


class NetworkParts:
    """The parts of all networks that were asked for, made anew where something changed.

    One that cannot be made stays as it was; why stands in `failures`.
    """

    def __init__(self) -> None:
        self._parts: dict[NetworkID, NetworkPart | None] = {}
        self._origins: dict[NetworkID, dict[str, _Origin]] = {}
        self._stale: dict[NetworkID, dict[TaskID, None] | None] = {}
        """What changed: these tasks; None for more than tasks."""
        self._failed: set[NetworkID] = set()
        self.failures: list[Failure] = []

    def note(self, event: Event) -> frozenset[NetworkID]:
        """Take in a change; the networks whose part it may touch, of those ever asked for."""
        found = _touched(event)
        thing = event.object
        if found is None:
            touched = set(self._parts)
        else:
            touched = {network for network in found if network in self._parts}
        if isinstance(thing, Service):
            touched.update(self._that_know(thing.id, new=event.before is None))
        for network in touched:
            self._spoil(network, thing.id if isinstance(thing, Task) else None)
        if isinstance(thing, Network) and event.after is None:
            self._parts.pop(thing.id, None)
            self._origins.pop(thing.id, None)
            self._stale.pop(thing.id, None)
        return frozenset(touched)

    def _spoil(self, network: NetworkID, task: TaskID | None) -> None:
        known = self._stale.setdefault(network, {})
        if task is None or known is None:
            self._stale[network] = None
        else:
            known[task] = None

    def _that_know(self, service: ServiceID, *, new: bool) -> Iterable[NetworkID]:
        """Networks on which a service is told of or has tasks, though it may not be on them.

        One that has tasks there is told of, unless it is new or the part could not be made:
        only then the endpoints are gone through.
        """
        for network, part in self._parts.items():
            told = part is not None and f"{network}/{service}" in part.services
            unsure = not told and (new or network in self._failed)
            origins = self._origins.get(network, {}).values() if unsure else ()
            if told or any(one.task.service_id == service for one in origins):
                yield network

    def of(self, view: View, network: NetworkID) -> NetworkPart | None:
        """The part of one network as of now; None for one that is not there."""
        if network in self._stale or network not in self._parts:
            changed = self._stale.pop(network, None)
            try:
                self._parts[network] = self._renewed(view, network, changed)
                self._failed.discard(network)
            except Exception as error:  # noqa: BLE001 - trouble of one network stays with it
                self._parts.setdefault(network, None)
                self._failed.add(network)
                self.failures.append(Failure(network, error))
        return self._parts[network]

    def _renewed(
        self, view: View, network: NetworkID, tasks: Iterable[TaskID] | None
    ) -> NetworkPart | None:
        """Changed by some tasks where that is enough; after a failure, made anew."""
        before = self._parts.get(network)
        if before is not None and tasks and network not in self._failed:
            changed = self._change(view, before, tasks)
            if changed is not None:
                return changed
        return self._make(view, network)

    def _change(
        self, view: View, before: NetworkPart, tasks: Iterable[TaskID]
    ) -> NetworkPart | None:
        """The part with some tasks as they are now; None where services may change too."""
        identity = before.network.id
        origins, endpoints = self._origins[identity], dict(before.endpoints)
        found: dict[TaskID, _Origin | None] = {}
        for key in tasks:
            task, known = view.task(key), origins.get(key)
            for each in (task, known.task if known is not None else None):
                if each is not None and _is_leaving(view, each.service_id, identity):
                    return None
            there = task is not None and identity in _networks_of_task(task)
            found[key] = _origin(view, task, identity, known) if task and there else None
        for key, origin in found.items():
            if origin is not None:
                origins[key] = origin
                endpoints[origin.endpoint.key] = origin.endpoint
            elif (gone := origins.pop(key, None)) is not None:
                del endpoints[gone.endpoint.key]
        return msgspec.structs.replace(before, endpoints=endpoints)

    def _make(self, view: View, identity: NetworkID) -> NetworkPart | None:
        network = view.network(identity)
        if network is None:
            self._origins.pop(identity, None)
            return None
        before = self._parts.get(identity)
        known = self._origins.get(identity, {})
        origins: dict[str, _Origin] = {}
        for task in view.tasks_on_network(identity):
            origin = _origin(view, task, identity, known.get(task.id))
            if origin is not None:
                origins[task.id] = origin
        self._origins[identity] = origins
        return NetworkPart(
            network=assigned_network(network),
            endpoints={one.endpoint.key: one.endpoint for one in origins.values()},
            services={
                one.key: _same(
                    before.services.get(one.key) if before is not None else None, one
                )
                for one in _services(view, network, origins.values())
            },
        )


def _same(before: NetworkService | None, after: NetworkService) -> NetworkService:
    return before if before is not None and before == after else after


def _is_leaving(view: View, identity: ServiceID, network: NetworkID) -> bool:
    """Whether a service is told of on a network for the sake of its tasks only."""
    service = view.service(identity)
    if service is None:
        return False
    return all(one.target != network for one in service.spec.task_template.networks)


def _touched(event: Event) -> Iterable[NetworkID] | None:
    """The networks that a change may touch; None for all."""
    before, after = event.before, event.after
    match event.object:
        case Network():
            return (event.object.id,)
        case Task():
            if _facts(before) == _facts(after):
                return ()
            return {*_networks_of_task(before), *_networks_of_task(after)}
        case Service():
            return {*_networks_of_service(before), *_networks_of_service(after)}
        case Node():
            return () if _place(before) == _place(after) else None
        case _:
            return ()


def _facts(thing: StoredObject | None) -> object:
    """What others on its networks are told of a task."""
    if not isinstance(thing, Task) or not located(thing):
        return None
    return (
        thing.service_id,
        thing.networks,
        thing.node_id,
        runs(thing),
        _container_id(thing),
    )


def _container_id(task: Task) -> str:
    """The container that it runs, or that it stands for."""
    if task.attached is not None:
        return task.attached.container_id
    started = task.status.container
    return started.container_id if started is not None else ""


def _networks_of_task(thing: StoredObject | None) -> Iterable[NetworkID]:
    return [one.network_id for one in thing.networks] if isinstance(thing, Task) else ()


def _networks_of_service(thing: StoredObject | None) -> Iterable[NetworkID]:
    if not isinstance(thing, Service):
        return ()
    named = [NetworkID(one.target) for one in thing.spec.task_template.networks]
    return [*named, *(ip.network_id for ip in thing.endpoint.virtual_ips)]


def _place(thing: StoredObject | None) -> object:
    """What others on its tasks' networks are told of a node."""
    if not isinstance(thing, Node):
        return None
    hostname = thing.description.hostname if thing.description is not None else ""
    return (underlay_of(thing), hostname, is_down(thing))


def underlay_of(node: Node) -> str:
    """The address that other hosts send a node's packets to."""
    return node.data_path_addr or node.addr


def located(task: Task) -> bool:
    """Whether it has a place in the cluster: assigned to a node and not ended."""
    return (
        task.node_id is not None
        and task.status.state >= TaskState.ASSIGNED
        and not task.ended
        and bool(task.networks)
    )


def networks_of_node(view: View, node: NodeID) -> list[NetworkID]:
    """The networks that a node has a task on, each once, in order."""
    return sorted(
        {
            one.network_id
            for task in view.tasks_of_node(node)
            if located(task)
            for one in task.networks
        }
    )


def assigned_network(network: Network) -> AssignedNetwork:
    """A network as its nodes are told."""
    spec = network.spec
    return AssignedNetwork(
        id=network.id,
        name=network.name,
        driver=spec.driver,
        vni=network.vni,
        subnets=tuple(Subnet(subnet=p.subnet, gateway=p.gateway) for p in network.pools),
        mtu=mtu_of(spec),
        internal=spec.internal,
        attachable=spec.attachable,
        encrypted=is_encrypted(spec),
        labels=spec.labels,
        options=spec.options,
    )


def task_networks(task: Task) -> tuple[TaskNetwork, ...]:
    """The networks of a task, as its own node is told."""
    options = {one.target: one.driver_opts for one in task.spec.networks}
    return tuple(
        TaskNetwork(
            network_id=one.network_id,
            addresses=one.addresses,
            mac=mac_of_endpoint(one.addresses),
            aliases=one.aliases,
            driver_opts=options.get(one.network_id, {}),
        )
        for one in task.networks
    )


def _origin(
    view: View, task: Task, network: NetworkID, known: _Origin | None
) -> _Origin | None:
    node = view.node(task.node_id) if task.node_id is not None else None
    if node is None or not located(task):
        return None
    if known is not None and known.task is task and known.node is node:
        return known
    (place,) = [one for one in task.networks if one.network_id == network]
    made = _endpoint(view, task, node, place)
    if known is not None and known.endpoint == made:
        made = known.endpoint
    return _Origin(task, node, made)


def _endpoint(view: View, task: Task, node: Node, place: NetworkAttachment) -> NetworkEndpoint:
    container = task.spec.container_spec
    hostname = container.hostname if container is not None else ""
    names = [task.name]
    if identity := _container_id(task):
        names.append(identity[:12])
    if task.attached is not None:
        names.extend(task.attached.aliases)
    if hostname:
        names.append(expand(hostname, context_of(task, node)))
    return NetworkEndpoint(
        network_id=place.network_id,
        task_id=task.id,
        node_id=node.id,
        underlay=underlay_of(node),
        addresses=tuple(bare(address) for address in place.addresses),
        mac=mac_of_endpoint(place.addresses),
        names=tuple(dict.fromkeys(names)),
        service_id=task.service_id,
        serving=serves(view, task),
    )


def _services(
    view: View, network: Network, origins: Iterable[_Origin]
) -> Iterable[NetworkService]:
    """Services that name the network, and those that have left it but for some tasks."""
    named = {service.id: service for service in view.services_on_network(network.id)}
    leaving: dict[ServiceID, Service] = {}
    for origin in origins:
        identity = origin.task.service_id
        if identity in named or identity in leaving:
            continue
        service = view.service(identity)
        if service is not None:
            leaving[identity] = service
    for service in (*named.values(), *leaving.values()):
        yield network_service(service, network.id)


def network_service(service: Service, network: NetworkID) -> NetworkService:
    """A service as it is known on one network."""
    aliases = [
        alias
        for one in service.spec.task_template.networks
        if one.target == network
        for alias in one.aliases
    ]
    return NetworkService(
        network_id=network,
        service_id=service.id,
        name=service.spec.name,
        aliases=tuple(dict.fromkeys(aliases)),
        virtual_ips=_virtual_ips(service.endpoint, network),
        ports=endpoint_of(service.spec).ports,
    )


def _virtual_ips(endpoint: Endpoint, network: NetworkID) -> tuple[str, ...]:
    return tuple(bare(ip.addr) for ip in endpoint.virtual_ips if ip.network_id == network)
