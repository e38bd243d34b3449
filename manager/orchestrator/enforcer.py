"""Tasks that no longer belong where they run: constraints or reservations do not hold. Pure.

Wakes on nodes whose labels, role, description or availability changed. It only stops them; the
service's mode makes the new ones. Nodes that are paused, drained or down are left alone. A task
is judged by its service's present constraints if it is clean but for them, else by its own.
"""

from collections.abc import Iterable
from datetime import datetime

from manager.orchestrator.newtask import Maker
from manager.orchestrator.slots import Dirt, age
from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group
from shoal.model.constraints import first_unmet, parse_all
from shoal.model.errors import InvalidArgument
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import Node, NodeDescription, Task
from shoal.model.resources import Available, free_generic, missing, reserved
from shoal.model.spec.task import Placement, Resources
from shoal.model.states import Availability, NodeState, TaskState

REASON = "assigned node no longer meets constraints"
RESOURCES_REASON = "assigned node no longer has the reserved resources"
_NO_PLACEMENT = Placement()


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Stop the tasks of one node that do not fit it any more."""
    node = view.node(NodeID(key))
    if (
        node is None
        or node.state is not NodeState.READY
        or node.spec.availability != Availability.ACTIVE
    ):
        return NOTHING
    groups = []
    for task, reason in misfits(view, node):
        service = view.service(task.service_id)
        if service is not None:
            stop = Maker(view, service, now, ids).stop(task, reason)
            groups.append(Group((stop,), reason=reason))
    return Decision(groups=tuple(groups)) if groups else NOTHING


def misfits(view: View, node: Node) -> Iterable[tuple[Task, str]]:
    """Tasks that do not fit their node, with the reason; older tasks keep their place."""
    left = _all_of(node)
    tasks = [
        task
        for task in view.tasks_of_node(node.id)
        if task.wanted and not task.ended and task.status.state >= TaskState.ASSIGNED
    ]
    for task in sorted(tasks, key=age):
        if not _constraints_hold(view, task, node):
            yield task, REASON
        elif missing(reserved(task.spec), left) is not None:
            yield task, RESOURCES_REASON
        else:
            _take(left, reserved(task.spec))


def _all_of(node: Node) -> Available:
    has = (node.description or NodeDescription()).resources
    free = free_generic(has.generic_resources, {}, {})
    free.nano_cpus, free.memory_bytes = has.nano_cpus, has.memory_bytes
    return free


def _take(left: Available, wanted: Resources) -> None:
    left.nano_cpus -= wanted.nano_cpus
    left.memory_bytes -= wanted.memory_bytes
    for one in wanted.generic_resources:
        if one.discrete_resource_spec is not None:
            kind, count = one.discrete_resource_spec.kind, one.discrete_resource_spec.value
            if left.named.get(kind):
                del left.named[kind][:count]
            else:
                left.discrete[kind] = left.discrete.get(kind, 0) - count
        if one.named_resource_spec is not None:
            named = one.named_resource_spec
            left.named[named.kind].remove(named.value)


def _constraints_hold(view: View, task: Task, node: Node) -> bool:
    spec = task.service_spec
    service = view.service(task.service_id)
    if service is not None and not Dirt(view, service).of(task):
        spec = service.spec
    placement = spec.task_template.placement or _NO_PLACEMENT
    try:
        return first_unmet(parse_all(placement.constraints), node) is None
    except InvalidArgument:
        return True
