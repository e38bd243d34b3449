"""What a task is on its node: its placeholders' values, and whether it takes requests. Pure."""

from manager.view import View
from shoal.model.objects import Node, NodeDescription, Task
from shoal.model.states import NodeState, TaskState
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


def serves(view: View, task: Task) -> bool:
    """Whether a task takes requests: it runs, is meant to, and its node is not down.

    What was reported last of a node that is down stands until it returns or is given up, and
    nobody stops a global service's task there: it must not be sent requests all that time.
    """
    node = view.node(task.node_id) if task.node_id is not None else None
    return node is not None and not is_down(node) and runs(task)


def runs(task: Task) -> bool:
    """Whether it takes requests, by itself: healthy where it has a check, and meant to."""
    return task.status.state is TaskState.RUNNING and task.wanted


def is_down(node: Node) -> bool:
    """Whether nothing on a node is counted on."""
    return node.state is NodeState.DOWN
