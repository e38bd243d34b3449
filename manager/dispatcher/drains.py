"""Which stopping tasks get no new requests any more, because every host knows. Pure.

A task that is to stop stands in no name and behind no virtual IP or port from one revision on.
It is drained once every node that could send it requests, and has an open session, has applied
that revision: nodes with another task on one of its networks, and for published ports all of
them. Each manager knows how far its own sessions are; of the others it knows what they wrote
(`Applied`). Who has no session is not waited for. Nothing is done while nothing stops.
"""

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from manager.dispatcher.networks import NetworkPart, NetworkParts
from manager.view import View
from shoal.model.changes import Event
from shoal.model.defaults import endpoint_of, mesh_ports
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import Applied, Service, Task
from shoal.model.states import TaskState

NOBODY = Applied()
REMEMBERED = 1000
"""So many services that took a port back are remembered; their tasks are waited for longer."""


class Progress:
    """How far the network of one agent's host is, from what it says of what it was told."""

    def __init__(self) -> None:
        self._sent: deque[tuple[int, int]] = deque()
        self._last = 0
        self._applied = 0
        self._revision = 0

    def told(self, sequence: int, revision: int) -> None:
        """A message of what there was at a revision has gone out; 1 begins to count anew.

        The revision is 0 for all but the last message of one set.
        """
        if sequence == 1:
            self._sent.clear()
            self._applied = 0
        self._sent.append((sequence, revision))
        self._last = sequence

    def applied(self, sequence: int) -> None:
        """The host's network is as that message wanted it, and all before it."""
        if not self._applied < sequence <= self._last:
            return
        self._applied = sequence
        while self._sent and self._sent[0][0] <= sequence:
            self._revision = max(self._revision, self._sent.popleft()[1])

    @property
    def sequence(self) -> int:
        """Of the last message that it has applied."""
        return self._applied

    def reached(self, present: int, *, current: bool) -> int:
        """The revision that it has applied; `current`: there is nothing else to tell it."""
        if current and self._last and self._applied == self._last:
            return max(present, self._revision)
        return self._revision


class Standing(msgspec.Struct, frozen=True):
    """One of a manager's own sessions: what it has applied, and when it was opened."""

    applied: int
    opened: int


class Seat(msgspec.Struct, frozen=True):
    """Which manager has a node's session, by a key that was written at `revision`."""

    manager: NodeID
    revision: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the stopping tasks: nodes to tell, and what to write, if anything."""

    nodes: frozenset[NodeID] = frozenset()
    record: Applied | None = None


class Drains:
    """The stopping tasks of the cluster, as one manager sees them."""

    def __init__(self, me: NodeID, parts: NetworkParts) -> None:
        self._me = me
        self._parts = parts
        self._since: dict[TaskID, int] = {}
        self._drained: set[TaskID] = set()
        self._gave_up: dict[ServiceID, None] = {}
        self._there: dict[NetworkID, tuple[NetworkPart, Mapping[NodeID, int]]] = {}

    def __bool__(self) -> bool:
        """Whether anything stops that took requests."""
        return bool(self._since)

    def note(self, event: Event) -> None:
        """Take in a change of a task, or of a service's ports."""
        task = event.object
        if isinstance(task, Service):
            self._note_ports(task.id, event)
        if not isinstance(task, Task):
            return
        if event.after is not None and _stops(task):
            self._since.setdefault(task.id, task.guard)
        elif task.id in self._since:
            del self._since[task.id]
            self._drained.discard(task.id)
            if not self._since:
                self._there.clear()

    def _note_ports(self, service: ServiceID, event: Event) -> None:
        """Remember who took ports back: nodes may not have applied that yet."""
        after = event.after
        left = after.endpoint.ports if isinstance(after, Service) else ()
        if isinstance(event.before, Service) and any(
            port not in left for port in mesh_ports(event.before.endpoint.ports)
        ):
            self._gave_up[service] = None
            if len(self._gave_up) > REMEMBERED:
                del self._gave_up[next(iter(self._gave_up))]

    def drained(self, view: View, task: Task) -> bool:
        """Whether a task gets no new requests; one that is to go on does."""
        if task.wanted:
            return False
        if task.id not in self._since or task.id in self._drained:
            return True
        clients = self._clients(view, task)
        return clients is not None and not clients

    def look(
        self,
        view: View,
        mine: Mapping[NodeID, Standing],
        seats: Mapping[NodeID, Seat],
        written: Applied,
    ) -> Found:
        """Judge every stopping task whose node has a session.

        `mine` are this manager's open sessions and those it is opening, `seats` all nodes'
        sessions as the view has them, `written` is what this manager wrote last.
        """
        told: set[NodeID] = set()
        done: list[TaskID] = []
        fresh = True
        for identity in sorted(self._since):
            task = view.task(identity)
            seat = seats.get(task.node_id) if task is not None and task.node_id else None
            if task is None or seat is None:
                continue
            if seat.manager == self._me and identity in self._drained:
                continue
            clients = self._clients(view, task)
            own = [s for node, s in mine.items() if clients is None or node in clients]
            if not _applied(own, self._since[identity], view.revision):
                continue
            if seat.manager != self._me:
                if not own:
                    continue  # nobody asks for the word of a manager without such sessions
                done.append(identity)
                fresh = fresh and all(one.opened <= written.revision for one in own)
            elif _elsewhere(view, identity, self._me, _of(seats, clients)):
                self._drained.add(identity)
                told.add(task.node_id or NodeID(""))
        same = fresh and set(done) <= set(written.tasks)
        return Found(
            nodes=frozenset(told),
            record=None if same else Applied(revision=view.revision, tasks=tuple(done)),
        )

    def _clients(self, view: View, task: Task) -> frozenset[NodeID] | None:
        """The nodes that could send it requests; None for all."""
        if task.service_id in self._gave_up or _published(view, task):
            return None
        found: set[NodeID] = set()
        for place in task.networks:
            for node, count in self._on(view, place.network_id).items():
                if node != task.node_id or count > 1:
                    found.add(node)
        return frozenset(found)

    def _on(self, view: View, network: NetworkID) -> Mapping[NodeID, int]:
        """How many tasks each node has on a network; counted anew when these change."""
        part = self._parts.of(view, network)
        if part is None:
            return {}
        known = self._there.get(network)
        if known is not None and known[0].endpoints is part.endpoints:
            return known[1]
        counts: dict[NodeID, int] = {}
        for endpoint in part.endpoints.values():
            counts[endpoint.node_id] = counts.get(endpoint.node_id, 0) + 1
        self._there[network] = (part, counts)
        return counts


def _applied(own: Iterable[Standing], since: int, present: int) -> bool:
    """Whether all have applied a revision; of one that the view does not show yet, no."""
    return all(one.applied >= since and one.opened <= present for one in own)


def _stops(task: Task) -> bool:
    """Whether it took requests until it was told to stop, and still could."""
    return not task.wanted and task.status.state is TaskState.RUNNING


def _published(view: View, task: Task) -> bool:
    """Whether every node may lead a port to it: by its own spec, or by its service's.

    By that of a moment ago too: nodes may not have applied yet that a port was taken back.
    """
    ports = endpoint_of(task.service_spec).ports
    service = view.service(task.service_id)
    if service is not None:
        ports = (*ports, *service.endpoint.ports)
        if service.previous_spec is not None:
            ports = (*ports, *endpoint_of(service.previous_spec).ports)
    return bool(mesh_ports(ports))


def _of(seats: Mapping[NodeID, Seat], clients: frozenset[NodeID] | None) -> Iterable[Seat]:
    if clients is None:
        return seats.values()
    return [seats[node] for node in clients if node in seats]


def _elsewhere(view: View, task: TaskID, me: NodeID, seats: Iterable[Seat]) -> bool:
    """Whether the other managers of these sessions say that theirs are done with a task.

    What a manager wrote before it knew of a session says nothing of that session.
    """
    newest: dict[NodeID, int] = {}
    for seat in seats:
        if seat.manager != me:
            newest[seat.manager] = max(newest.get(seat.manager, 0), seat.revision)
    for manager, revision in newest.items():
        node = view.node(manager)
        said = node.applied if node is not None and node.applied is not None else NOBODY
        if said.revision < revision or task not in said.tasks:
            return False
    return True
