"""Which events wake which decider, with what key: the rows of the control loop, in order.

Nodes first, then what there should be, then how it starts, then where it runs, then what is
over. A row later in the table sees in the same pass what an earlier one has just decided.
"""

from collections.abc import Iterable

from manager.allocator import allocate, attachments, networks, ports, subnets, virtual_ips
from manager.loops import troubles
from manager.loops.loop import Row
from manager.orchestrator import (
    enforcer,
    global_mode,
    job_modes,
    node_health,
    reaper,
    removal,
    replicated_mode,
    restart,
    update,
)
from manager.scheduler import schedule
from manager.view import View
from shoal.model.changes import Event
from shoal.model.ids import NetworkID
from shoal.model.objects import (
    Cluster,
    Network,
    Node,
    Service,
    ServiceVersion,
    StoredObject,
    Task,
)
from shoal.model.states import TaskState

ALL = ""
"""The one key of rows that look at everything at once."""


def _one(view: View) -> Iterable[str]:
    del view
    return (ALL,)


def _nodes(view: View) -> Iterable[str]:
    return [node.id for node in view.nodes()]


def _services(view: View) -> Iterable[str]:
    return [service.id for service in view.services()]


def _services_of_tasks(view: View) -> Iterable[str]:
    """Services that are there, and those that only their tasks remember."""
    found: dict[str, None] = dict.fromkeys(service.id for service in view.services())
    found.update(dict.fromkeys(t.service_id for t in view.tasks() if t.service_id))
    return found


def _nodes_of_tasks(view: View) -> Iterable[str]:
    found: dict[str, None] = dict.fromkeys(node.id for node in view.nodes())
    found.update((task.node_id, None) for task in view.tasks() if task.node_id is not None)
    return found


def _node_changed(event: Event, view: View) -> Iterable[str]:
    del view
    return (event.object.id,) if isinstance(event.object, Node) else ()


def _service_changed(event: Event, view: View) -> Iterable[str]:
    del view
    return (event.object.id,) if isinstance(event.object, Service) else ()


def moved(event: Event) -> bool:
    """Whether a node's fitness for tasks changed: it came, went, or other tasks fit now."""
    before, after = event.before, event.after
    if not isinstance(before, Node) or not isinstance(after, Node):
        return isinstance(event.object, Node)
    return (
        before.state is not after.state
        or (before.lost_since is None) is not (after.lost_since is None)
        or before.spec != after.spec
        or before.role is not after.role
        or before.description != after.description
        or before.subnet != after.subnet
        or before.addr != after.addr
    )


def turned(event: Event) -> bool:
    """Whether a task came, went, is desired otherwise, runs or has ended: what modes act on."""
    before, after = event.before, event.after
    if not isinstance(before, Task) or not isinstance(after, Task):
        return isinstance(event.object, Task)
    runs = TaskState.RUNNING
    return (
        before.desired_state is not after.desired_state
        or before.ended is not after.ended
        or (before.status.state is runs) is not (after.status.state is runs)
        or before.spec_version != after.spec_version
    )


def _tasks_turned(event: Event, view: View) -> Iterable[str]:
    """A service, by itself or by a task of it."""
    if isinstance(event.object, Task):
        return _service_of(event.object) if turned(event) else ()
    return _service_changed(event, view)


def _service_of(task: Task) -> Iterable[str]:
    """Its service; a person's container has none."""
    return (task.service_id,) if task.service_id else ()


def _replicated(event: Event, view: View) -> Iterable[str]:
    """As above, and the services of a node whose fitness changed."""
    if isinstance(event.object, Node):
        if not moved(event):
            return ()
        return dict.fromkeys(t.service_id for t in view.tasks_of_node(event.object.id))
    return _tasks_turned(event, view)


def _everywhere(event: Event, view: View) -> Iterable[str]:
    """As above, and every service when a node changes: it may get a task."""
    if isinstance(event.object, Node):
        return _services(view) if moved(event) else ()
    return _tasks_turned(event, view)


def _enforced(event: Event, view: View) -> Iterable[str]:
    del view
    return (event.object.id,) if isinstance(event.object, Node) and moved(event) else ()


def _ports(event: Event, view: View) -> Iterable[str]:
    """The service; when one lets go of ports, all that wait for some."""
    if not isinstance(event.object, Service):
        return ()
    before, after = event.before, event.after
    released = isinstance(before, Service) and (
        not isinstance(after, Service) or before.endpoint.ports != after.endpoint.ports
    )
    waiting = [s.id for s in view.services() if not ports.allocated(s)] if released else []
    return (event.object.id, *waiting)


def _new_tasks(event: Event, view: View) -> Iterable[str]:
    """A service, by itself or by a new task, and those whose tasks wait for what came free."""
    found: dict[str, None] = {}
    if isinstance(event.object, Service):
        found.update(dict.fromkeys(_ports(event, view)))
    after = event.after
    if isinstance(after, Task) and after.status.state is TaskState.NEW:
        found.update(dict.fromkeys(_service_of(after)))
    for network in _let_go(event):
        found.update(dict.fromkeys(view.network_use(network).waiting))
    return found


def _attachments(event: Event, view: View) -> Iterable[str]:
    """A new attachment by hand, and those that wait for what came free."""
    found: dict[str, None] = {}
    if isinstance(event.object, Task) and event.object.attached is not None:
        found[event.object.id] = None
    networks_let_go = set(_let_go(event))
    if networks_let_go:
        for task in view.attached_tasks():
            if task.attached is not None and task.attached.network_id in networks_let_go:
                found[task.id] = None
    return found


def _attached(view: View) -> Iterable[str]:
    return [task.id for task in view.attached_tasks()]


def _let_go(event: Event) -> Iterable[NetworkID]:
    """The networks on which an address came free or that changed themselves."""
    if isinstance(event.object, Network):
        return (event.object.id,)
    if event.before is None:
        return ()
    return sorted(_places(event.before) - _places(event.after))


def _places(thing: StoredObject | None) -> set[NetworkID]:
    match thing:
        case Task() if not thing.ended:
            return {one.network_id for one in thing.networks}
        case Service():
            return {ip.network_id for ip in thing.endpoint.virtual_ips}
        case _:
            return set()


def _virtual_ips(event: Event, view: View) -> Iterable[str]:
    """A service; those that lack what came free; one that leaves a network with a task."""
    found: dict[str, None] = {}
    if isinstance(event.object, Service):
        found[event.object.id] = None
    for network in _let_go(event):
        if isinstance(event.object, Task):
            found.update(dict.fromkeys(_service_of(event.object)))
        for service in view.services_on_network(network):
            if virtual_ips.lacking(view, service):
                found[service.id] = None
    if isinstance(event.object, Network) and event.object.spec.ingress:
        found.update(dict.fromkeys(_services(view)))
    return found


def _network_ids(view: View) -> Iterable[str]:
    return [network.id for network in view.networks()]


def _networks(event: Event, view: View) -> Iterable[str]:
    """A network; when one is gone, those that may have waited for its subnet."""
    if not isinstance(event.object, Network):
        return ()
    if event.after is not None:
        return (event.object.id,)
    return [network.id for network in view.networks() if not network.allocated]


def _removed_networks(event: Event, view: View) -> Iterable[str]:
    """A network that is to go, by itself or by a task that has left it."""
    found = []
    for identity in _let_go(event):
        network = view.network(identity)
        if network is not None and network.pending_delete:
            found.append(identity)
    return found


def _subnets(event: Event, view: View) -> Iterable[str]:
    del view
    match event.object:
        case Cluster():
            return (ALL,)
        case Network():
            return (ALL,) if event.object.spec.ingress else ()
        case Node():
            return (ALL,) if moved(event) else ()
        case _:
            return ()


def _scheduler(event: Event, view: View) -> Iterable[str]:
    """Something waits, and it or what it waits for changed."""
    if isinstance(event.object, Node):
        relevant = moved(event)
    elif isinstance(event.object, Task):
        after = event.after
        pending = isinstance(after, Task) and after.status.state is TaskState.PENDING
        relevant = pending or turned(event)
    else:
        relevant = False
    return (ALL,) if relevant and view.pending_tasks() else ()


def _reaped(event: Event, view: View) -> Iterable[str]:
    """The service of what may be over; when a node goes, those of its tasks."""
    match event.object:
        case Cluster():
            return _services(view)
        case Node() if event.after is None:
            return dict.fromkeys(t.service_id for t in view.tasks_of_node(event.object.id))
        case ServiceVersion():
            return (event.object.service_id,)
        case Task() | Service():
            return _tasks_turned(event, view)
        case _:
            return ()


TABLE: tuple[Row, ...] = (
    Row("node health", _node_changed, _nodes, node_health.decide, troubles.NODE),
    Row("enforcer", _enforced, _nodes, enforcer.decide, troubles.NODE),
    Row("orphans", _node_changed, _nodes_of_tasks, reaper.orphan, troubles.NODE),
    Row("removal", _service_changed, _services_of_tasks, removal.decide, troubles.SERVICE),
    Row("replicated", _replicated, _services, replicated_mode.decide, troubles.SERVICE),
    Row("global", _everywhere, _services, global_mode.decide, troubles.SERVICE),
    Row("jobs", _everywhere, _services, job_modes.decide, troubles.SERVICE),
    Row("update", _everywhere, _services, update.decide, troubles.SERVICE),
    Row("start", _replicated, _services, restart.decide, troubles.SERVICE),
    Row("networks", _networks, _network_ids, networks.decide),
    Row("ports", _ports, _services, ports.decide, troubles.NEW_TASKS),
    Row("virtual IPs", _virtual_ips, _services, virtual_ips.decide, troubles.NEW_TASKS),
    Row("allocate", _new_tasks, _services, allocate.decide, troubles.NEW_TASKS),
    Row("attachments", _attachments, _attached, attachments.decide, troubles.TASK),
    Row("subnets", _subnets, _one, subnets.decide),
    Row("schedule", _scheduler, _one, schedule.decide),
    Row("reaper", _reaped, _services_of_tasks, reaper.decide, troubles.SERVICE),
    Row("removed networks", _removed_networks, _network_ids, networks.finish),
)
"""All deciders of the leader, in the order of a pass."""
