"""The table of the control loop: which events wake which decider, with what key, in what order.

Order matters within a pass: health before those who move tasks away, ports and addresses before
tasks are passed on, the scheduler after all who make tasks, the reaper last.
"""

from collections.abc import Iterable

from manager.allocator import allocate, ports, subnets
from manager.loops.loop import Row
from manager.orchestrator import (
    global_mode,
    node_health,
    reaper,
    replicated_mode,
    restart,
    update,
)
from manager.scheduler import schedule
from manager.view import View
from shoal.model.changes import Event
from shoal.model.defaults import Mode, mode_of
from shoal.model.objects import Cluster, Node, Service, Task
from shoal.model.states import TaskState

WHOLE = ("",)


def _nodes(event: Event, view: View) -> Iterable[str]:
    """The node itself."""
    del view
    return (event.object.id,) if isinstance(event.object, Node) else ()


def _all_nodes(view: View) -> Iterable[str]:
    return [node.id for node in view.nodes()]


def _services(event: Event, view: View) -> Iterable[str]:
    """The service, and a task's service."""
    del view
    match event.object:
        case Service():
            return (event.object.id,)
        case Task():
            return (event.object.service_id,)
        case _:
            return ()


def _services_and_their_nodes(event: Event, view: View) -> Iterable[str]:
    """Also, when a node changes otherwise than by its report, the services it has tasks of."""
    if not isinstance(event.object, Node):
        return _services(event, view)
    return sorted({task.service_id for task in view.tasks_of_node(event.object.id)})


def _every_service_of_nodes(event: Event, view: View) -> Iterable[str]:
    """Any change of a node may be one that a global service waits for."""
    if not isinstance(event.object, Node):
        return _services(event, view)
    return [s.id for s in view.services() if mode_of(s.spec) is Mode.GLOBAL]


def _all_services(view: View) -> Iterable[str]:
    gone = {task.service_id for task in view.tasks()}
    return sorted(gone | {service.id for service in view.services()})


def _publishing(event: Event, view: View) -> Iterable[str]:
    """The service; when one goes or changes, its ports may be what another waits for."""
    if not isinstance(event.object, Service):
        return ()
    if event.before is None:
        return (event.object.id,)
    return [service.id for service in view.services() if not ports.allocated(service)]


def _membership(event: Event, view: View) -> Iterable[str]:
    del view
    return WHOLE if isinstance(event.object, Node | Cluster) else ()


def _placement(event: Event, view: View) -> Iterable[str]:
    """Something is pending and something may have made room for it."""
    match event.object:
        case Task() as task:
            waits = task.status.state is TaskState.PENDING and event.after is not None
            left = task.ended or not task.wanted or event.after is None
            return WHOLE if waits or (left and any(True for _ in view.pending_tasks())) else ()
        case Node():
            return WHOLE if any(True for _ in view.pending_tasks()) else ()
        case _:
            return ()


def _whole(view: View) -> Iterable[str]:
    del view
    return WHOLE


TABLE: tuple[Row, ...] = (
    Row("node health", _nodes, _all_nodes, node_health.decide),
    Row("subnets", _membership, _whole, subnets.decide),
    Row("ports", _publishing, _all_services, ports.decide),
    Row(
        "replicated services",
        _services_and_their_nodes,
        _all_services,
        replicated_mode.decide,
    ),
    Row("global services", _every_service_of_nodes, _all_services, global_mode.decide),
    Row("updates", _services, _all_services, update.decide),
    Row("held tasks", _services_and_their_nodes, _all_services, restart.decide),
    Row("allocation", _services, _all_services, allocate.decide),
    Row("scheduler", _placement, _whole, schedule.decide),
    Row("reaper", _services, _all_services, reaper.decide),
)
