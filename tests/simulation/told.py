"""What nodes are told: no older word after a newer one, no secret that no task there needs."""

from shoal.model.assignment import Assignments, Stamp
from shoal.model.ids import NodeID
from shoal.model.states import TaskState
from tests.simulation.truth import Truth


class Told:
    """Hears what managers say and what agents act on."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def speaks(self, manager: str, node: NodeID, applied: Stamp, stamp: Stamp) -> None:
        """A manager says something to an agent that said at its registration what it knows."""
        if stamp < applied:
            self._truth.object_to(
                f"{manager} tells {node} of {_short(stamp)}, and it has applied"
                f" {_short(applied)}"
            )

    def applied(self, node: NodeID, before: Stamp, after: Stamp) -> None:
        """An agent acts on a set."""
        if after < before:
            self._truth.object_to(
                f"{node} acts on the older word of {_short(after)} after {_short(before)}"
            )

    def told(self, node: NodeID, told: Assignments) -> None:
        """Each payload is needed by a task of the same set that may read it."""
        needed = {
            one.secret_id
            for task in told.tasks.values()
            if task.desired_state <= TaskState.COMPLETE
            for one in task.container.secrets
        }
        for identity in told.secrets:
            if identity not in needed:
                self._truth.object_to(f"{node} has secret {identity} that no task there needs")
        for task in told.tasks.values():
            stored = self._truth.view.task(task.id)
            if stored is not None and stored.node_id != node:
                self._truth.object_to(f"{node} is told of {task.id}, of {stored.node_id}")


def _short(stamp: Stamp) -> str:
    return f"{stamp.incarnation}/{stamp.epoch}/{stamp.revision}"
