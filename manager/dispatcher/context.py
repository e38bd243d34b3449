"""What the placeholders of a task's spec stand for on its node. Pure."""

from shoal.model.objects import Node, NodeDescription, Task
from shoal.model.states import TaskState
from shoal.model.template import Context

_UNKNOWN = NodeDescription()


def context_of(task: Task, node: Node) -> Context:
    """The context of one task."""
    described = node.description or _UNKNOWN
    return Context(
        service_id=task.service_id,
        service_name=task.service_spec.name,
        service_labels=task.service_spec.labels,
        node_id=node.id,
        node_hostname=described.hostname,
        node_architecture=described.platform.architecture,
        node_os=described.platform.os,
        task_id=task.id,
        task_name=task.name,
        task_slot=str(task.slot) if task.slot else node.id,
    )


def serves(task: Task) -> bool:
    """Whether a task takes requests: it runs, healthy where it has a check, and is meant to."""
    return task.status.state is TaskState.RUNNING and task.wanted
