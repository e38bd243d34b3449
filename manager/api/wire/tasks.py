"""Tasks as `GET /tasks` shows them. Pure."""

from manager.api.wire.envelope import Json, envelope, instant
from manager.api.wire.networks import swarm_network_json
from manager.view import View
from shoal.model.ids import NetworkID
from shoal.model.objects import Task


def task_json(view: View, task: Task) -> Json:
    """The whole task."""
    out = envelope(task)
    out["Labels"] = task.service_spec.labels
    out["Spec"] = task.spec
    out["ServiceID"] = task.service_id
    slot = shown_slot(task)
    if slot:
        out["Slot"] = slot
    if task.node_id is not None:
        out["NodeID"] = task.node_id
    out["Status"] = _status(task)
    out["DesiredState"] = task.desired_state.api_name
    if task.networks:
        out["NetworksAttachments"] = [
            {"Network": _network(view, one.network_id), "Addresses": one.addresses}
            for one in task.networks
        ]
    if task.generic_resources:
        out["GenericResources"] = task.generic_resources
    if task.job_iteration is not None:
        out["JobIteration"] = {"Index": task.job_iteration}
    return out


def _network(view: View, identity: NetworkID) -> Json:
    """The network; of one that is gone, which an ended task may remember, its id alone."""
    found = view.network(identity)
    return swarm_network_json(found) if found is not None else {"ID": identity}


def shown_slot(task: Task) -> int:
    """Its slot as Docker counts: those of a replicated job begin with 0, which is left out.

    The progress display of clients counts on it.
    """
    return task.slot - 1 if task.slot and task.job_iteration is not None else task.slot


def _status(task: Task) -> Json:
    status = task.status
    out: Json = {
        "Timestamp": instant(status.timestamp),
        "State": status.state.api_name,
        "Message": status.message,
    }
    # Swarm's lost tasks go on as "Running" without a word; ours say why they are to stop.
    if trouble := status.err or ("" if task.wanted or task.ended else task.reason):
        out["Err"] = trouble
    if status.container is not None:
        out["ContainerStatus"] = {
            "ContainerID": status.container.container_id,
            "PID": status.container.pid,
            "ExitCode": status.container.exit_code,
        }
    out["PortStatus"] = {"Ports": status.ports} if status.ports else {}
    return out
