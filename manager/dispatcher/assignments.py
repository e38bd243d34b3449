"""From the view to what one node is told, and from one such set to the next. Pure.

What is the same for all nodes (published ports, mesh peers, managers) is made once a change by
`cluster_part` and shared; a node's own tasks by `assignments_for`. The agent gets differences.
"""

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import TypeVar

import msgspec

from manager.dispatcher.context import context_of, serves
from manager.dispatcher.networks import (
    NetworkParts,
    assigned_network,
    networks_of_node,
    task_networks,
)
from manager.dispatcher.payloads import Needs, Opened, needs
from manager.view import View, ingress_of
from shoal.model.assignment import (
    AssignedNetwork,
    AssignedTask,
    Assignments,
    Backend,
    Difference,
    IngressPort,
    IngressSet,
    ManagerAddress,
    ManagerSet,
    MeshPart,
    Payload,
    Peer,
)
from shoal.model.changes import Failure
from shoal.model.defaults import endpoint_of, is_host_port, is_on_host_network, mesh_ports
from shoal.model.ids import ClusterID, NodeID, ServiceID, TaskID
from shoal.model.objects import Node, NodeDescription, Service, Task
from shoal.model.resources import environment_of
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import ContainerSpec, SecretReference
from shoal.model.states import NodeRole, TaskState
from shoal.model.template import expand_container

NOTHING_ASSIGNED = Assignments()


class ClusterPart(msgspec.Struct, frozen=True, kw_only=True):
    """What every node is told alike; a node leaves itself out of the peers."""

    ingress: IngressSet = IngressSet()
    peers: tuple[Peer, ...] = ()
    managers: ManagerSet = ManagerSet()
    port: int = 4789
    prefix6: str = ""
    network: AssignedNetwork | None = None
    failures: tuple[Failure, ...] = ()
    trust: str = ""


def cluster_part(view: View) -> ClusterPart:
    """Published ports with their running tasks, the mesh and the managers, as of now."""
    cluster, mesh = view.cluster(), ingress_of(view)
    failures: list[Failure] = []
    return ClusterPart(
        ingress=IngressSet(ports=tuple(_ingress(view, failures))),
        peers=tuple(
            Peer(
                node_id=node.id,
                address=node.data_path_addr or node.addr,
                subnet=node.subnet,
                tunnel=node.tunnel,
            )
            for node in view.nodes()
            if node.subnet and (node.data_path_addr or node.addr)
        ),
        managers=ManagerSet(
            managers=tuple(
                ManagerAddress(node_id=node.id, address=node.manager.addr)
                for node in view.nodes()
                if node.manager is not None and node.spec.role == NodeRole.MANAGER.value
            )
        ),
        port=cluster.data_path_port if cluster is not None else 4789,
        trust=cluster.trust if cluster is not None else "",
        prefix6=mesh_prefix6(cluster.id) if cluster is not None else "",
        network=assigned_network(mesh) if mesh is not None and mesh.allocated else None,
        failures=tuple(failures),
    )


def mesh_prefix6(cluster: ClusterID) -> str:
    """The cluster's own unique local IPv6 /96 (RFC 4193), the same at every manager.

    >>> mesh_prefix6(ClusterID("c1"))
    'fdd0:f631:ca1d:dba8:db3b:cfcb::/96'
    """
    digest = hashlib.sha256(cluster.encode()).digest()
    return f"{IPv6Address(bytes([0xFD, *digest[:11], 0, 0, 0, 0]))}/96"


def _ingress(view: View, failures: list[Failure]) -> Iterable[IngressPort]:
    """The ports of all services; those of one that fails are left out."""
    for service in view.services():
        try:
            yield from tuple(_published(view, service))
        except Exception as error:  # noqa: BLE001 - trouble of one service stays with it
            failures.append(Failure(service.id, error))


def _published(view: View, service: Service) -> Iterable[IngressPort]:
    ports = mesh_ports(service.endpoint.ports)
    if not ports:
        return
    serving = [
        (address, task.node_id)
        for task in view.tasks_of_service(service.id)
        if serves(view, task) and task.node_id is not None
        for address in task.status.addresses[:1]
    ]
    for port in ports:
        yield IngressPort(
            protocol=port.protocol or "tcp",
            published=port.published_port,
            backends=tuple(
                Backend(address=address, port=port.target_port, node_id=node)
                for address, node in serving
            ),
            local_only=service.spec.labels.get(LOCAL_ONLY, "").lower() == "true",
        )


LOCAL_ONLY = "shoal.ingress.local-only"


class Confidences(msgspec.Struct, frozen=True):
    """What is stored sealed: registry credentials by service, and how secrets are opened."""

    credentials: Mapping[ServiceID, str]
    opened: Opened


class _Told(msgspec.Struct, frozen=True):
    """What a task was told of; while all of it is the same, so is what its node is told."""

    task: Task
    description: NodeDescription | None
    registry_auth: str
    drained: bool
    assigned: AssignedTask
    needed: Needs


class TaskParts:
    """The tasks of one session as its node was told, made anew where something changed.

    One that cannot be made stays as it was told last, or is told as one to be rejected; why
    stands in `failures`.
    """

    def __init__(self) -> None:
        self._told: dict[TaskID, _Told] = {}
        self.failures: list[Failure] = []

    def of(
        self, view: View, task: Task, node: Node, confidences: Confidences, *, drained: bool
    ) -> tuple[AssignedTask, Needs]:
        """One task; the same objects as long as nothing of it changed."""
        known = self._told.get(task.id)
        registry_auth = confidences.credentials.get(task.service_id, "")
        if (
            known is not None
            and known.task is task
            and known.description is node.description
            and known.drained is drained
            and known.registry_auth == registry_auth
        ):
            return known.assigned, known.needed
        try:
            made, needed = _assigned(view, task, node, confidences, drained=drained)
        except Exception as error:  # noqa: BLE001 - trouble of one task stays with it
            self.failures.append(Failure(task.id, error))
            before = (known.assigned, known.needed) if known is not None else None
            made, needed = _instead(before, task, error, drained=drained)
        if known is not None and known.assigned == made:
            made = known.assigned
        self._told[task.id] = _Told(
            task, node.description, registry_auth, drained, made, needed
        )
        return made, needed

    def keep(self, tasks: Container[TaskID]) -> None:
        """Forget all others."""
        for task in [known for known in self._told if known not in tasks]:
            del self._told[task]


def assignments_for(
    view: View,
    node: NodeID,
    part: ClusterPart,
    networks: NetworkParts,
    confidences: Confidences,
    drained: Callable[[Task], bool],
    parts: TaskParts,
) -> Assignments:
    """The complete set for one node; empty for a node that is gone.

    Ended tasks stay in it as long as they are in the store: their containers and logs are kept.
    """
    found = view.node(node)
    if found is None:
        return NOTHING_ASSIGNED
    tasks: dict[TaskID, AssignedTask] = {}
    secrets: dict[str, Payload] = {}
    configs: dict[str, Payload] = {}
    for task in view.tasks_of_node(node):
        if task.status.state < TaskState.ASSIGNED:
            continue
        made = parts.of(view, task, found, confidences, drained=drained(task))
        tasks[task.id], needed = made
        secrets.update((payload.id, payload) for payload in needed.secrets)
        configs.update((payload.id, payload) for payload in needed.configs)
    parts.keep(tasks)
    on = [networks.of(view, network) for network in networks_of_node(view, node)]
    there = [one for one in on if one is not None]
    return Assignments(
        tasks=tasks,
        secrets=secrets,
        configs=configs,
        networks={one.network.id: one.network for one in there},
        endpoints=_joined([one.endpoints for one in there]),
        services=_joined([one.services for one in there]),
        mesh=MeshPart(
            subnet=found.subnet,
            port=part.port,
            peers=tuple(peer for peer in part.peers if peer.node_id != node),
            prefix6=part.prefix6,
            ingress=part.network,
        ),
        ingress=part.ingress,
        managers=part.managers,
        role=found.role_told.value,
        trust=part.trust,
    )


def _assigned(
    view: View, task: Task, node: Node, confidences: Confidences, *, drained: bool
) -> tuple[AssignedTask, Needs]:
    spec = task.service_spec
    name = task.name
    container = spec.task_template.container_spec or ContainerSpec()
    context = context_of(task, node)
    expanded = expand_container(container, context)
    needed = needs(view, task, expanded, context, confidences.opened)
    assigned = AssignedTask(
        id=task.id,
        service_id=task.service_id,
        service_name=spec.name,
        name=name,
        slot=task.slot,
        desired_state=task.desired_state,
        container=_with_claims(needed.container, task),
        labels={**container.labels, **system_labels(task, name)} if task.service_id else {},
        resources=spec.task_template.resources,
        ports=_host_ports(task),
        log_driver=spec.task_template.log_driver,
        registry_auth=confidences.credentials.get(task.service_id, ""),
        networks=task_networks(task),
        drained=drained,
        host_network=is_on_host_network(spec.task_template),
        attached=task.attached.container_id if task.attached is not None else "",
    )
    return assigned, needed


def _with_claims(container: ContainerSpec, task: Task) -> ContainerSpec:
    """The container that is told which of its node's generic resources are the task's."""
    claims = environment_of(task.generic_resources)
    if not claims:
        return container
    return msgspec.structs.replace(container, env=(*container.env, *claims))


def _instead(
    before: tuple[AssignedTask, Needs] | None, task: Task, error: Exception, *, drained: bool
) -> tuple[AssignedTask, Needs]:
    """What a node is told of a task that fails here: to leave it out would stop it.

    What runs is left running, what is to stop stops; what is new is rejected with the sentence.
    """
    if before is not None:
        known, needed = before
        told = msgspec.structs.replace(known, desired_state=task.desired_state, drained=drained)
        return told, needed
    missing = f"{task.id}.failed"
    sentence = f"internal error: the manager cannot say what the task is to run: {error!r}"
    container = ContainerSpec(
        secrets=(SecretReference(secret_id=missing, secret_name=missing),)
    )
    told = AssignedTask(
        id=task.id,
        service_id=task.service_id,
        service_name=task.service_spec.name,
        name=task.name,
        slot=task.slot,
        desired_state=task.desired_state,
        container=container,
        drained=drained,
    )
    return told, Needs(container, secrets=(Payload(id=missing, error=sentence),))


def _host_ports(task: Task) -> tuple[PortConfig, ...]:
    return tuple(filter(is_host_port, endpoint_of(task.service_spec).ports))


def system_labels(task: Task, name: str) -> dict[str, str]:
    """The labels that every container of a service has, whatever the user wrote."""
    return {
        "com.docker.swarm.node.id": task.node_id or "",
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": task.service_spec.name,
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": name,
    }


K = TypeVar("K")
V = TypeVar("V")


def _joined(parts: Sequence[Mapping[K, V]]) -> Mapping[K, V]:
    """All of them in one; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    found: dict[K, V] = {}
    for part in parts:
        found.update(part)
    return found


def difference(old: Assignments, new: Assignments) -> Difference | None:
    """What leads from one set to the next; None where nothing does."""
    found = Difference(
        tasks=_changed(old.tasks, new.tasks),
        removed_tasks=_removed(old.tasks, new.tasks),
        secrets=_changed(old.secrets, new.secrets),
        removed_secrets=_removed(old.secrets, new.secrets),
        configs=_changed(old.configs, new.configs),
        removed_configs=_removed(old.configs, new.configs),
        mesh=new.mesh if new.mesh != old.mesh else None,
        ingress=new.ingress if new.ingress != old.ingress else None,
        managers=new.managers if new.managers != old.managers else None,
        role=new.role if new.role != old.role else None,
        trust=new.trust if new.trust != old.trust else None,
        networks=_changed(old.networks, new.networks),
        removed_networks=_removed(old.networks, new.networks),
        endpoints=_changed(old.endpoints, new.endpoints),
        removed_endpoints=_removed(old.endpoints, new.endpoints),
        services=_changed(old.services, new.services),
        removed_services=_removed(old.services, new.services),
    )
    return found if found != Difference() else None


def complete(new: Assignments) -> Difference:
    """A whole set as the difference from nothing, with every part said."""
    found = difference(NOTHING_ASSIGNED, new) or Difference()
    return msgspec.structs.replace(
        found,
        mesh=new.mesh,
        ingress=new.ingress,
        managers=new.managers,
        role=new.role,
        trust=new.trust,
    )


def _changed(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[V, ...]:
    if old is new:
        return ()
    found = []
    for key, value in new.items():
        before = old.get(key)
        if before is not value and before != value:
            found.append(value)
    return tuple(found)


def _removed(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[K, ...]:
    return () if old is new else tuple([key for key in old if key not in new])


PORTION_BYTES = 8 << 20


def portions(change: Difference, limit: int = PORTION_BYTES) -> list[Difference]:
    """The same in messages of a bounded size: payloads that do not fit follow in further ones.

    A task whose payloads are still to come waits for them.
    """
    found = [msgspec.structs.replace(change, secrets=(), configs=())]
    room = limit
    for kind in ("secrets", "configs"):
        for payload in getattr(change, kind):
            if len(payload.data) > room:
                found.append(Difference())
                room = limit
            room -= len(payload.data)
            held = (*getattr(found[-1], kind), payload)
            found[-1] = msgspec.structs.replace(found[-1], **{kind: held})
    return found
