"""Whether a cluster has come to rest: what is wanted runs, and nothing is left to decide."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Protocol

import msgspec

from manager.dispatcher.assignments import TaskParts, assignments_for, cluster_part
from manager.dispatcher.networks import NetworkParts
from manager.loops.table import TABLE
from manager.view import View
from shoal.common.entropy import SeededIds
from shoal.model.ids import NodeID, ServiceID
from shoal.model.objects import Node, Object, Task
from shoal.model.states import NodeState, TaskState, UpdateState
from tests.simulation.clockwork import VirtualClock
from tests.simulation.hosts import Host
from tests.simulation.jobs import unfinished
from tests.simulation.managers import Manager, nothing_confided
from tests.simulation.truth import Truth

_MOVING = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)


class Scene(Protocol):
    """What is looked at."""

    @property
    def truth(self) -> Truth: ...

    @property
    def hosts(self) -> Mapping[NodeID, Host]: ...

    @property
    def managers(self) -> Mapping[NodeID, Manager]: ...


def unrest(scene: Scene) -> list[str]:
    """What still moves or is not as it should be, in sentences."""
    return [
        *_services(scene.truth),
        *_nodes(scene),
        *_managers(scene),
        *_decisions(scene.truth),
    ]


def _services(truth: Truth) -> Iterable[str]:
    for service in truth.view.services():
        status = service.update_status
        if status is not None and status.state in _MOVING:
            yield f"{service.spec.name} is {status.state.value}"
        lacks = unfinished(truth, service)
        if lacks:
            yield lacks
    for task in truth.view.tasks():
        said = _of_task(truth, task)
        if said:
            yield f"{truth.name(task)} {said}"


def _of_task(truth: Truth, task: Task) -> str:
    state, status = task.status.state, task.status
    if task.service_id not in {service.id for service in truth.view.services()}:
        return "is left of a service that is gone"
    if task.ended:
        done = task.job_iteration is not None and state is TaskState.COMPLETE
        return "has ended and is wanted still" if task.wanted and not done else ""
    if not task.wanted:
        return f"is to stop and is {state.name}"
    if state is TaskState.RUNNING:
        return ""
    if state <= TaskState.PENDING:
        return "" if status.err else f"waits in {state.name} and does not say why"
    return f"is {state.name} ({status.message})"


def _nodes(scene: Scene) -> Iterable[str]:
    view = scene.truth.view
    part, networks = cluster_part(view), NetworkParts()
    for name, host in scene.hosts.items():
        node = view.node(name)
        if node is None:
            yield from _left_behind(host)
            continue
        if node.state is not NodeState.READY or node.session is None:
            yield f"{name} is {node.state.value}, session {node.session}"
        serving = scene.managers.get(node.session.manager) if node.session else None
        if serving is None:
            yield f"{name} has its session at a manager that is none"
            continue
        if host.agent is None or not host.agent.worker.settled:
            yield f"{name} has another network than it was told"
        drained = serving.draining.drained
        if host.told != assignments_for(
            view, name, part, networks, nothing_confided(), drained, TaskParts()
        ):
            yield f"{name} was not told all"
        running = set(host.containers.running())
        wanted = {t.id for t in view.tasks_of_node(name) if t.status.state is TaskState.RUNNING}
        if running != wanted:
            yield f"{name} runs {sorted(running)} instead of {sorted(wanted)}"
        left = set(host.containers.containers) - {t.id for t in view.tasks_of_node(name)}
        if left:
            yield f"{name} keeps containers of no task: {sorted(left)}"
    yield from _addresses(scene)


def _left_behind(host: Host) -> Iterable[str]:
    """What a host still holds of a cluster that it is no part of any more."""
    if host.containers.containers:
        yield f"{host.node} was removed and has containers"
    if not host.wires.bare:
        yield f"{host.node} was removed and has a part in the network"


def _addresses(scene: Scene) -> Iterable[str]:
    held: dict[str, NodeID] = {}
    for name, host in scene.hosts.items():
        for container in host.containers.containers.values():
            if container.runs and held.setdefault(container.address, name) != name:
                yield f"{container.address} is on {name} and on {held[container.address]}"


def _managers(scene: Scene) -> Iterable[str]:
    truth = scene.truth
    if truth.leader not in scene.managers:
        yield f"the leader is {truth.leader or 'nobody'}"
    for name, manager in scene.managers.items():
        other = next(_differences(manager.memory, truth.view), None)
        if other is not None:
            yield f"manager {name} remembers something else: {other}"


def _differences(mine: View, true: View) -> Iterator[str]:
    pairs: tuple[tuple[Iterable[Object], Iterable[Object]], ...] = (
        (mine.tasks(), true.tasks()),
        (mine.services(), true.services()),
        (_nodes_of(mine), _nodes_of(true)),
        (mine.networks(), true.networks()),
        (mine.secrets(), true.secrets()),
        (mine.configs(), true.configs()),
    )
    for remembered, there in pairs:
        for one, other in zip_longest(remembered, there):
            if one != other:
                yield f"{one} and not {other}"


def _nodes_of(view: View) -> Iterator[Node]:
    """Without what hangs on how far a memory goes back."""
    return (msgspec.structs.replace(node, spec_since=0) for node in view.nodes())


def _decisions(truth: Truth) -> Iterable[str]:
    """A fixed point: no decider would write anything, whatever it is asked about."""
    now, ids = VirtualClock().now(), SeededIds(0)
    for row in TABLE:
        for key in row.all_keys(truth.view):
            for group in row.decide(truth.view, key, now, ids).groups:
                service = truth.view.service(ServiceID(key))
                name = service.spec.name if service is not None else key
                yield f"{row.name} would act on {name}: {group.reason}"
