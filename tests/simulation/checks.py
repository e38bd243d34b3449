"""The invariants of every step (DESIGN section 3), but for those of updates (`updates`).

Each check is told of a revision after it happened, or of a container's fate. None of them knows
how a decider decides: only what must never be seen.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

from agent.runtime.fake import Fate
from manager.control.canonical import canonical_service
from manager.orchestrator.slots import Cell, cell_of
from shoal.model.addresses import bare
from shoal.model.changes import Event
from shoal.model.defaults import is_host_port, protocol_of, update_rule
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import Network, Node, Service, Task
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import TaskState, UpdateOrder, UpdateState
from tests.simulation.hosts import Host
from tests.simulation.truth import Revision, Truth


class Acknowledged:
    """No acknowledged write is lost, and nothing that nobody asked for is written.

    A spec changes only because a user wanted that spec (now or, where the outcome was never
    known, before) or because an update rolls back to the spec before.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._created: dict[str, list[ServiceSpec]] = {}
        self._specs: dict[ServiceID, list[ServiceSpec]] = {}
        self._taken: dict[ServiceID, list[tuple[int, ServiceSpec]]] = {}
        self._removals: dict[ServiceID, None] = {}
        self._rollbacks: dict[ServiceID, None] = {}
        self._nodes: dict[NodeID, list[NodeSpec]] = {}
        self._node_removals: dict[NodeID, None] = {}

    # -- what users want

    def wants_service(self, spec: ServiceSpec) -> None:
        self._created.setdefault(spec.name, []).append(canonical_service(spec))

    def has_service(self, service: ServiceID, spec: ServiceSpec) -> None:
        """It was acknowledged: it must be there, or have been removed on demand."""
        found = self._truth.view.service(service)
        if found is None and service not in self._removals:
            self._truth.object_to(f"service {spec.name} was acknowledged and is not there")

    def wants_spec(self, service: ServiceID, spec: ServiceSpec) -> None:
        self._specs.setdefault(service, []).append(canonical_service(spec))

    def has_spec(self, service: ServiceID, revision: int, spec: ServiceSpec) -> None:
        """It was acknowledged: the store has taken that spec since the revision of the call."""
        if service in self._removals:
            return
        taken = self._taken.get(service, [])
        if not any(at > revision and one == canonical_service(spec) for at, one in taken):
            self._truth.object_to(f"an acknowledged update of {spec.name} was never written")

    def wants_rollback(self, service: ServiceID) -> None:
        """By a user: to the spec before, whatever that is by then."""
        self._rollbacks[service] = None

    def wants_removal(self, service: ServiceID) -> None:
        self._removals[service] = None

    def is_removed(self, service: ServiceID) -> None:
        if self._truth.view.service(service) is not None:
            self._truth.object_to(f"the acknowledged removal of service {service} is not there")

    def wants_node(self, node: NodeID, spec: NodeSpec) -> None:
        self._nodes.setdefault(node, []).append(spec)

    def wants_node_removal(self, node: NodeID) -> None:
        self._node_removals[node] = None

    # -- what the store does

    def check(self, revision: Revision) -> None:
        for event in revision.events:
            match event.object:
                case Service():
                    self._service(event, revision)
                case Node():
                    self._node(event)
                case _:
                    continue

    def _service(self, event: Event, revision: Revision) -> None:
        before, after = event.before, event.after
        if isinstance(before, Service) and after is None:
            if before.id not in self._removals:
                self._truth.object_to(f"service {before.spec.name} vanished")
            return
        assert isinstance(after, Service)
        self._taken.setdefault(after.id, []).append((revision.number, after.spec))
        if before is None:
            if after.spec not in self._created.get(after.spec.name, ()):
                self._truth.object_to(f"service {after.spec.name} is not as it was asked for")
            return
        assert isinstance(before, Service)
        if before.spec == after.spec or after.spec in self._specs.get(after.id, ()):
            return
        status = after.update_status
        back = status is not None and status.state is UpdateState.ROLLBACK_STARTED
        back = back or after.id in self._rollbacks
        if not back or after.spec != before.previous_spec:
            self._truth.object_to(f"nobody wanted this spec of {after.spec.name}")

    def _node(self, event: Event) -> None:
        before, after = event.before, event.after
        if not isinstance(before, Node):
            return
        if after is None:
            if before.id not in self._node_removals:
                self._truth.object_to(f"node {before.id} vanished")
            return
        assert isinstance(after, Node)
        if before.spec != after.spec and after.spec not in self._nodes.get(after.id, ()):
            self._truth.object_to(f"nobody wanted this spec of node {after.id}")


class Fenced:
    """One epoch acts: what only a leader writes is written by the one that holds the office."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def check(self, revision: Revision) -> None:
        writer, leader = revision.writer, self._truth.leader
        if writer == leader:
            return
        for event in revision.events:
            what = _leaders_own(event)
            if what:
                self._truth.object_to(
                    f"{writer} {what}, but the leader is {leader or 'nobody'}"
                )


def _leaders_own(event: Event) -> str:
    match event.before, event.after:
        case (None, Task() as made):
            return f"made task {made.id}"
        case (Task() as gone, None):
            return f"deleted task {gone.id}"
        case (Task() as old, Task() as new) if (old.desired_state, old.node_id) != (
            new.desired_state,
            new.node_id,
        ):
            return f"directed task {new.id}"
        case (Node() as old, Node() as new) if old.state is not new.state:
            return f"judged node {new.id}"
        case _:
            return ""


class Lives:
    """Tasks: states only move up, a node is given once, nothing is deleted that may run."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def check(self, revision: Revision) -> None:
        for event in revision.events:
            match event.before, event.after:
                case (Task() as before, Task() as after):
                    self._moves(before, after)
                case (Task() as gone, None):
                    self._deleted(gone)
                case _:
                    continue

    def _moves(self, before: Task, after: Task) -> None:
        name = self._truth.name(after)
        if after.status.state < before.status.state:
            fell = f"{before.status.state.name} to {after.status.state.name}"
            self._truth.object_to(f"the state of {name} fell from {fell}")
        if after.desired_state < before.desired_state:
            fell = f"{before.desired_state.name} to {after.desired_state.name}"
            self._truth.object_to(f"what is desired of {name} fell from {fell}")
        if before.node_id not in (None, after.node_id):
            self._truth.object_to(f"{name} moved from {before.node_id} to {after.node_id}")
        if before.spec_version != after.spec_version or before.slot != after.slot:
            self._truth.object_to(f"{name} is another task than it was")

    def _deleted(self, gone: Task) -> None:
        on = gone.node_id is not None and self._truth.view.node(gone.node_id) is not None
        if on and gone.status.state >= TaskState.ASSIGNED and not gone.ended:
            self._truth.object_to(
                f"{self._truth.name(gone)} was deleted while {gone.status.state.name}"
            )


class Exclusive:
    """No two holders of one published port, node's subnet, host's port, network's address."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def check(self, revision: Revision) -> None:
        kinds = {type(event.object) for event in revision.events if event.after is not None}
        if Service in kinds:
            self._services()
        if Node in kinds:
            self._nodes()
        if Network in kinds:
            self._networks()
        for network in sorted(_networks_of(revision.events)):
            self._addresses(network)
        if Task in kinds:
            for event in revision.events:
                if isinstance(event.after, Task) and event.after.node_id is not None:
                    self._host_ports(event.after.node_id)

    def _services(self) -> None:
        held: dict[tuple[str, int], str] = {}
        for service in self._truth.view.services():
            for port in service.endpoint.ports:
                if is_host_port(port) or not port.published_port:
                    continue
                key = (protocol_of(port), port.published_port)
                other = held.setdefault(key, service.spec.name)
                if other != service.spec.name:
                    self._truth.object_to(
                        f"port {key} is published by {other} and {service.spec.name}"
                    )

    def _nodes(self) -> None:
        held: dict[str, NodeID] = {}
        for node in self._truth.view.nodes():
            if node.subnet and held.setdefault(node.subnet, node.id) != node.id:
                self._truth.object_to(
                    f"subnet {node.subnet} is that of {held[node.subnet]} and {node.id}"
                )

    def _networks(self) -> None:
        vnis: dict[int, str] = {}
        subnets: list[tuple[str, IPv4Network | IPv6Network]] = []
        for network in self._truth.view.networks():
            if network.vni and vnis.setdefault(network.vni, network.id) != network.id:
                self._truth.object_to(f"VNI {network.vni} is that of two networks")
            for pool in network.pools:
                mine = ip_network(pool.subnet)
                for other, its in subnets:
                    if mine.version == its.version and mine.overlaps(its):
                        self._truth.object_to(f"subnets {mine} and {its} of {other} overlap")
                subnets.append((network.name, mine))

    def _addresses(self, identity: NetworkID) -> None:
        view = self._truth.view
        network = view.network(identity)
        held = {pool.gateway: "the gateway" for pool in network.pools} if network else {}
        takers: list[tuple[str, str]] = [
            (bare(address), task.id)
            for task in view.tasks_on_network(identity)
            if not task.ended
            for place in task.networks
            if place.network_id == identity
            for address in place.addresses
        ]
        takers += [
            (bare(ip.addr), service.id)
            for service in view.services()
            for ip in service.endpoint.virtual_ips
            if ip.network_id == identity
        ]
        for address, taker in takers:
            other = held.setdefault(address, taker)
            if other != taker:
                self._truth.object_to(f"{taker} and {other} have address {address}")

    def _host_ports(self, node: NodeID) -> None:
        held: dict[tuple[str, int], Task] = {}
        for task in self._truth.view.tasks_of_node(node):
            if task.ended or not task.wanted or task.status.state < TaskState.ASSIGNED:
                continue
            endpoint = task.service_spec.endpoint_spec
            for port in endpoint.ports if endpoint is not None else ():
                if not is_host_port(port) or not port.published_port:
                    continue
                other = held.setdefault((protocol_of(port), port.published_port), task)
                if other.id != task.id:
                    self._truth.object_to(
                        f"{self._truth.name(task)} and {self._truth.name(other)} have port"
                        f" {port.published_port} of {node}"
                    )


def _networks_of(events: Iterable[Event]) -> set[NetworkID]:
    """Networks on which an address was given."""
    found: set[NetworkID] = set()
    for event in events:
        match event.before, event.after:
            case before, Task() as task if task.networks:
                if not isinstance(before, Task) or before.networks != task.networks:
                    found.update(place.network_id for place in task.networks)
            case _, Service() as service:
                found.update(ip.network_id for ip in service.endpoint.virtual_ips)
            case _:
                continue
    return found


class Containers:
    """What runs: nothing stops that is wanted, and one slot's tasks do not run side by side."""

    def __init__(self, truth: Truth, hosts: Mapping[NodeID, Host]) -> None:
        self._truth = truth
        self._hosts = hosts
        self._cells: dict[TaskID, tuple[ServiceID, Cell]] = {}
        self._start_firsts: dict[ServiceID, None] = {}

    def check(self, revision: Revision) -> None:
        """Remember slots, for a container may outlive its task's entry, and orders of updates.

        A slot that began to be replaced start-first goes on so, whatever the order is by then.
        """
        for event in revision.events:
            match event.after:
                case Task() as task:
                    self._cells[task.id] = (task.service_id, cell_of(task))
                case Service() as service:
                    rules = [update_rule(service.spec, rollback=back) for back in (True, False)]
                    if any(rule.order is UpdateOrder.START_FIRST for rule in rules):
                        self._start_firsts[service.id] = None
                case _:
                    continue

    def fate(self, node: NodeID, identity: TaskID, fate: Fate) -> None:
        task = self._truth.view.task(identity)
        name = self._truth.name(task) if task is not None else identity
        self._truth.say(f"{node}: container of {name} {fate}")
        match fate:
            case Fate.STOPPED | Fate.REMOVED:
                if task is not None and task.wanted and not task.ended:
                    self._truth.object_to(f"{name} is wanted, and its container was {fate}")
            case Fate.STARTED:
                if task is None:
                    return  # its removal is under way, or its node was removed
                if task.node_id != node:
                    self._truth.object_to(f"{name} of {task.node_id} was started on {node}")
                self._alone(node, task, name)
            case Fate.ENDED | Fate.POWER | Fate.STOPPING:
                return

    def _alone(self, node: NodeID, task: Task, name: str) -> None:
        if self._truth.down_lately(node):
            return  # it was given up, and has not heard of that yet
        start_first = self._start_first(task)
        beside = [
            (where, other)
            for where, other in self._running_in(task)
            if other != task.id
            and not self._truth.down_lately(where)
            and not self._given_up(other, task.job_iteration, stopping=start_first)
        ]
        if len(beside) > int(start_first):
            listed = ", ".join(f"{other} on {where}" for where, other in beside)
            self._truth.object_to(f"{name} was started on {node} beside {listed}")

    def _running_in(self, task: Task) -> Iterable[tuple[NodeID, TaskID]]:
        key = (task.service_id, cell_of(task))
        for where, host in self._hosts.items():
            for other in host.containers.running():
                if self._cells.get(other) == key:
                    yield where, other

    def _given_up(self, task: TaskID, iteration: int | None, *, stopping: bool) -> bool:
        """Whether its slot was given up: a slot that is wanted again waits for no such task.

        That of an earlier iteration of a job is. Where tasks run beside each other, none waits
        for what is stopping already either.
        """
        found = self._truth.view.task(task)
        if found is None or found.desired_state is TaskState.REMOVE:
            return True
        if found.job_iteration != iteration and not found.wanted:
            return True
        return stopping and not found.wanted

    def _start_first(self, task: Task) -> bool:
        service = self._truth.view.service(task.service_id)
        if service is None:
            return True
        return service.id in self._start_firsts
