"""Nodes: what users may change of them, and taking them out of the cluster.

A role is only wished for here: taking a manager into the store's members and out of them is
`manager.roles`' and the agent's. Whether a node is heard of is the leader's.
"""

import msgspec

from manager.control.lookup import find_node, node_name
from manager.control.writing import Writer
from manager.store.memory import Memory
from manager.view import View
from shoal.common.clock import Clock
from shoal.model.changes import Change, Delete, Group, Update
from shoal.model.objects import Node, Task, TaskStatus
from shoal.model.spec.node import NodeSpec
from shoal.model.states import NodeRole, NodeState, TaskState
from shoal.model.validate.node import check_node
from shoal.model.validate.refusal import out_of_sequence, precondition

_MANAGER = NodeRole.MANAGER.value


class Nodes:
    """The operations on nodes."""

    def __init__(self, writer: Writer, memory: Memory, clock: Clock) -> None:
        self._writer = writer
        self._memory = memory
        self._clock = clock

    async def update(self, text: str, spec: NodeSpec, version: int) -> None:
        """Take a new spec: labels, availability, role."""
        check_node(spec)

        def decide() -> tuple[Group, None]:
            node = find_node(self._memory, text)
            # What the leader and the node itself wrote since the caller's reading (state, role,
            # description) loses nothing of the user's.
            if not node.spec_since <= version <= node.version:
                raise out_of_sequence()
            if node.spec.role == _MANAGER and spec.role != _MANAGER:
                check_demotion(self._memory, node)
            changed = msgspec.structs.replace(node, spec=spec, updated_at=self._clock.now())
            return Group((Update(changed),), f"node {node_name(node)} updated"), None

        await self._writer.write(decide)

    async def remove(self, text: str, *, force: bool) -> None:
        """Take a node out; whatever ran there is given up as orphaned."""

        def decide() -> tuple[Group, None]:
            node = find_node(self._memory, text)
            _check_removal(node, force=force)
            tasks = self._memory.tasks_of_node(node.id)
            orphans: list[Change] = [
                Update(self._orphaned(task)) if task.attached is None else Delete(task)
                for task in tasks
                if not task.ended
            ]
            return Group((*orphans, Delete(node)), f"node {node_name(node)} removed"), None

        await self._writer.write(decide)

    def _orphaned(self, task: Task) -> Task:
        now = self._clock.now()
        status = TaskStatus(
            state=TaskState.ORPHANED,
            timestamp=now,
            message="Task belonged to a node that has been deleted",
            container=task.status.container,
        )
        return msgspec.structs.replace(task, status=status, updated_at=now)


def check_demotion(view: View, node: Node) -> None:
    """Refuse to demote the last manager, or one without which too few would be heard of."""
    others = [n for n in view.nodes() if n.spec.role == _MANAGER and n.id != node.id]
    if not others:
        raise precondition("attempting to demote the last manager of the swarm")
    heard = sum(1 for other in others if other.state is NodeState.READY)
    if heard < len(others) // 2 + 1:
        raise precondition(
            "can't remove member from the raft: this would result in a loss of quorum"
            f" ({heard} of the {len(others)} other managers are reachable)"
        )


def _check_removal(node: Node, *, force: bool) -> None:
    if node.spec.role == _MANAGER or node.manager is not None:
        raise precondition(
            f"node {node.id} is a cluster manager and is a member of the raft cluster."
            " It must be demoted to worker before removal"
        )
    if not force and node.state is not NodeState.DOWN:
        raise precondition(f"node {node.id} is not down and can't be removed")
