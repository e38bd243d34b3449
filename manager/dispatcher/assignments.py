"""From the view to what one node is told, and from one such set to the next. Pure.

What is the same for all nodes (published ports, mesh peers, managers) is made once a change by
`cluster_part` and shared; a node's own tasks by `assignments_for`. The agent gets differences.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from manager.view import View
from shoal.model.assignment import (
    AssignedTask,
    Assignments,
    Backend,
    Difference,
    IngressPort,
    IngressSet,
    ManagerAddress,
    ManagerSet,
    MeshPart,
    Peer,
)
from shoal.model.ids import NodeID, ServiceID
from shoal.model.objects import Node, Task
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import ContainerSpec
from shoal.model.states import NodeRole, TaskState
from shoal.model.template import Context, expand_container

NOTHING_ASSIGNED = Assignments()


class ClusterPart(msgspec.Struct, frozen=True, kw_only=True):
    """What every node is told alike; a node leaves itself out of the peers."""

    ingress: IngressSet = IngressSet()
    peers: tuple[Peer, ...] = ()
    managers: ManagerSet = ManagerSet()
    port: int = 4789


def cluster_part(view: View) -> ClusterPart:
    """Published ports with their running tasks, the mesh and the managers, as of now."""
    cluster = view.cluster()
    return ClusterPart(
        ingress=IngressSet(ports=tuple(_ingress(view))),
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
                if node.manager is not None and node.role is NodeRole.MANAGER
            )
        ),
        port=cluster.data_path_port if cluster is not None else 4789,
    )


def _ingress(view: View) -> Iterable[IngressPort]:
    for service in view.services():
        ports = [port for port in service.endpoint.ports if port.publish_mode != "host"]
        if not ports:
            continue
        addresses = [
            address
            for task in view.tasks_of_service(service.id)
            if serves(task)
            for address in task.status.addresses[:1]
        ]
        for port in ports:
            yield IngressPort(
                protocol=port.protocol or "tcp",
                published=port.published_port,
                backends=tuple(
                    Backend(address=address, port=port.target_port) for address in addresses
                ),
            )


def serves(task: Task) -> bool:
    """Whether a task takes requests: it runs and is meant to."""
    return task.status.state is TaskState.RUNNING and task.desired_state is TaskState.RUNNING


def assignments_for(
    view: View, node: NodeID, part: ClusterPart, credentials: Mapping[ServiceID, str]
) -> Assignments:
    """The complete set for one node; empty for a node that is gone.

    Ended tasks stay in it as long as they are in the store: their containers and logs are kept.
    """
    found = view.node(node)
    if found is None:
        return NOTHING_ASSIGNED
    tasks = {
        task.id: _assigned(task, found, credentials)
        for task in view.tasks_of_node(node)
        if task.status.state >= TaskState.ASSIGNED
    }
    return Assignments(
        tasks=tasks,
        mesh=MeshPart(
            subnet=found.subnet,
            port=part.port,
            peers=tuple(peer for peer in part.peers if peer.node_id != node),
        ),
        ingress=part.ingress,
        managers=part.managers,
        role=found.role_told.value,
    )


def _assigned(task: Task, node: Node, credentials: Mapping[ServiceID, str]) -> AssignedTask:
    spec = task.service_spec
    name = task_name(task)
    context = Context(
        service_id=task.service_id,
        service_name=spec.name,
        service_labels=spec.labels,
        node_id=node.id,
        node_hostname=node.description.hostname if node.description is not None else "",
        node_architecture=(
            node.description.platform.architecture if node.description is not None else ""
        ),
        node_os=node.description.platform.os if node.description is not None else "",
        task_id=task.id,
        task_name=name,
        task_slot=str(task.slot) if task.slot else node.id,
    )
    container = spec.task_template.container_spec or ContainerSpec()
    return AssignedTask(
        id=task.id,
        service_id=task.service_id,
        service_name=spec.name,
        name=name,
        slot=task.slot,
        desired_state=task.desired_state,
        container=expand_container(container, context),
        labels={**container.labels, **system_labels(task, name)},
        resources=spec.task_template.resources,
        ports=_host_ports(task),
        log_driver=spec.task_template.log_driver,
        registry_auth=credentials.get(task.service_id, ""),
    )


def _host_ports(task: Task) -> tuple[PortConfig, ...]:
    endpoint = task.service_spec.endpoint_spec
    ports = endpoint.ports if endpoint is not None else ()
    return tuple(port for port in ports if port.publish_mode == "host")


def task_name(task: Task) -> str:
    """`web.1.<task id>`; a global service's tasks carry their node's id for the slot."""
    return f"{task.service_spec.name}.{task.slot or task.node_id}.{task.id}"


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
        found, mesh=new.mesh, ingress=new.ingress, managers=new.managers, role=new.role
    )


def _changed(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[V, ...]:
    return tuple([value for key, value in new.items() if old.get(key) != value])


def _removed(old: Mapping[K, V], new: Mapping[K, V]) -> tuple[K, ...]:
    return tuple([key for key in old if key not in new])
