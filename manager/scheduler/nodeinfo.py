"""A node as one scheduling pass sees it: the view's totals and what the pass has put there.

Pure. Made for a node when it is first looked at, so that a pass over thousands of nodes reads
the kept totals and copies nothing it does not change.
"""

from typing import TypeVar

import msgspec

from manager.view import View
from shoal.model.ids import NodeID, ServiceID
from shoal.model.objects import Node, NodeDescription, Task
from shoal.model.resources import Available, free_generic
from shoal.model.spec.task import GenericResource, Resources

_NO_DESCRIPTION = NodeDescription()


class Placed(msgspec.Struct):
    """What this pass has assigned to a node."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    tasks: int = 0
    by_service: dict[ServiceID, int] = msgspec.field(default_factory=dict)
    host_ports: set[tuple[str, int]] = msgspec.field(default_factory=set)
    discrete: dict[str, int] = msgspec.field(default_factory=dict)
    named: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)


class Load:
    """What nodes have left, during one pass."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._placed: dict[NodeID, Placed] = {}

    def tasks(self, node: NodeID) -> int:
        """All tasks on a node."""
        placed = self._placed.get(node)
        return self._view.totals(node).tasks + (placed.tasks if placed is not None else 0)

    def tasks_of(self, node: NodeID, service: ServiceID) -> int:
        """Tasks of one service on a node."""
        count = self._view.totals(node).by_service.get(service, 0)
        placed = self._placed.get(node)
        return count + (placed.by_service.get(service, 0) if placed is not None else 0)

    def holds_port(self, node: NodeID, port: tuple[str, int]) -> bool:
        """Whether a host-mode port is taken on a node."""
        if port in self._view.totals(node).host_ports:
            return True
        placed = self._placed.get(node)
        return placed is not None and port in placed.host_ports

    def available(self, node: Node, *, generic: bool) -> Available:
        """What is left of a node's resources; generic ones only where they are asked for."""
        has = (node.description or _NO_DESCRIPTION).resources
        totals = self._view.totals(node.id)
        placed = self._placed.get(node.id)
        free = Available()
        if generic:
            discrete, named = dict(totals.discrete), dict(totals.named)
            if placed is not None:
                _merge(discrete, placed.discrete)
                _merge(named, placed.named)
            free = free_generic(has.generic_resources, discrete, named)
        free.nano_cpus = has.nano_cpus - totals.nano_cpus
        free.memory_bytes = has.memory_bytes - totals.memory_bytes
        if placed is not None:
            free.nano_cpus -= placed.nano_cpus
            free.memory_bytes -= placed.memory_bytes
        return free

    def place(
        self,
        node: NodeID,
        task: Task,
        wanted: Resources,
        generic: tuple[GenericResource, ...],
        ports: frozenset[tuple[str, int]],
    ) -> None:
        """Count a task that this pass assigns."""
        placed = self._placed.setdefault(node, Placed())
        placed.tasks += 1
        placed.nano_cpus += wanted.nano_cpus
        placed.memory_bytes += wanted.memory_bytes
        placed.by_service[task.service_id] = placed.by_service.get(task.service_id, 0) + 1
        placed.host_ports |= ports
        for one in generic:
            if one.discrete_resource_spec is not None:
                found = one.discrete_resource_spec
                _merge(placed.discrete, {found.kind: found.value})
            if one.named_resource_spec is not None:
                name = one.named_resource_spec
                _merge(placed.named, {(name.kind, name.value): 1})


K = TypeVar("K")


def _merge(into: dict[K, int], more: dict[K, int]) -> None:
    for key, value in more.items():
        into[key] = into.get(key, 0) + value
