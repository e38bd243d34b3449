"""Tasks as `GET /tasks` shows them. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from manager.api.wire.envelope import Json, envelope, instant
from manager.api.wire.networks import swarm_network_json
from manager.view import View, ingress_of
from shoal.model.defaults import endpoint_of, mesh_ports
from shoal.model.ids import NetworkID
from shoal.model.objects import NetworkAttachment, Task
from shoal.model.states import NodeState, TaskState

Taken = Mapping[tuple[str, int], str]
"""Of ports of the cluster that are taken on some hosts: where, and by whom."""


def taken_ports(view: View) -> Taken:
    """Of all hosts that are there."""
    found: dict[tuple[str, int], list[str]] = {}
    for node in view.nodes():
        if node.taken_ports and node.state is NodeState.READY:
            name = node.description.hostname if node.description is not None else node.id
            for each in node.taken_ports:
                known = found.setdefault((each.protocol, each.port), [])
                known.append(f"not published on {name}: {each}")
    return {key: "; ".join(sentences) for key, sentences in found.items()}


def task_json(view: View, task: Task, taken: Taken) -> Json:
    """The whole task; `taken` as `taken_ports` of the same view says."""
    out = envelope(task)
    out["Labels"] = {}  # a task's own, which it never has; its service's choose in lists
    out["Spec"] = msgspec.structs.replace(task.spec, runtime="")  # said of services alone
    out["ServiceID"] = task.service_id
    slot = shown_slot(task)
    if slot:
        out["Slot"] = slot
    if task.node_id is not None:
        out["NodeID"] = task.node_id
    out["Status"] = _status(task, _not_published(view, task, taken))
    out["DesiredState"] = task.desired_state.api_name
    places = [*_on_ingress(view, task), *task.networks]
    if places:
        out["NetworksAttachments"] = [
            {"Network": _network(view, one.network_id), "Addresses": one.addresses}
            for one in places
        ]
    if task.generic_resources:
        out["GenericResources"] = task.generic_resources
    if task.job_iteration is not None:
        out["JobIteration"] = {"Index": task.job_iteration}
    return out


def _on_ingress(view: View, task: Task) -> Iterable[NetworkAttachment]:
    """Its place on the ingress network, while it has one: its host gave it the address."""
    if task.ended or not task.status.addresses or task.node_id is None:
        return
    node, endpoint = view.node(task.node_id), endpoint_of(task.service_spec)
    if node is None or not node.subnet or not mesh_ports(endpoint.ports):
        return
    network, length = ingress_of(view), node.subnet.partition("/")[2]
    if network is not None:
        address = f"{task.status.addresses[0]}/{length}"
        yield NetworkAttachment(network_id=network.id, addresses=(address,))


def _network(view: View, identity: NetworkID) -> Json:
    """The network; of one that is gone, which an ended task may remember, its id alone."""
    found = view.network(identity)
    return swarm_network_json(found) if found is not None else {"ID": identity}


def shown_slot(task: Task) -> int:
    """Its slot as Docker counts: those of a replicated job begin with 0, which is left out.

    The progress display of clients counts on it.
    """
    return task.slot - 1 if task.slot and task.job_iteration is not None else task.slot


def _not_published(view: View, task: Task, taken: Taken) -> str:
    """Which ports of its service are taken somewhere, while it runs."""
    service = view.service(task.service_id) if taken else None
    if service is None or task.status.state is not TaskState.RUNNING:
        return ""
    ports = mesh_ports(service.endpoint.ports)
    published = [(each.protocol, each.published_port) for each in ports]
    return "; ".join(taken[key] for key in published if key in taken)


def _status(task: Task, not_published: str) -> Json:
    status = task.status
    out: Json = {
        "Timestamp": instant(status.timestamp),
        "State": status.state.api_name,
        "Message": status.message,
    }
    # Swarm's lost tasks go on as "Running" without a word; ours say why they are to stop.
    stopping = "" if task.wanted or task.ended else task.reason
    if trouble := status.err or stopping or not_published:
        out["Err"] = trouble
    if status.container is not None:
        out["ContainerStatus"] = {
            "ContainerID": status.container.container_id,
            "PID": status.container.pid,
            "ExitCode": status.container.exit_code,
        }
    out["PortStatus"] = {"Ports": status.ports} if status.ports else {}
    return out
