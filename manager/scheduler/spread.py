"""The spread preferences as a tree, and the order of nodes within a leaf. Pure.

A task goes down the branch with the fewest tasks of its service, counted over all nodes of the
branch, also those that take none, and there to the node with the fewest recent failures of the
service, the fewest of its tasks, the fewest tasks at all.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence

from shoal.model.objects import Node
from shoal.model.spec.task import Placement

Rank = tuple[int, int, int, str]
_NODE_LABEL = "node.labels."
_ENGINE_LABEL = "engine.labels."


def levels(placement: Placement | None) -> tuple[Callable[[Node], str], ...]:
    """How to read each spread label of a node; what is no label is no level, as in Swarm."""
    found: list[Callable[[Node], str]] = []
    for preference in placement.preferences if placement is not None else ():
        text = preference.spread.spread_descriptor if preference.spread is not None else ""
        reader = _reader(text)
        if reader is not None:
            found.append(reader)
    return tuple(found)


def _reader(text: str) -> Callable[[Node], str] | None:
    lower = text.lower()
    if lower.startswith(_NODE_LABEL):
        label = text[len(_NODE_LABEL) :]
        return lambda node: node.spec.labels.get(label, "")
    if lower.startswith(_ENGINE_LABEL):
        label = text[len(_ENGINE_LABEL) :]
        return lambda node: (
            node.description.engine.labels.get(label, "")
            if node.description is not None
            else ""
        )
    return None


class Branch:
    """A branch or leaf: its tasks of the service, what is below, nodes by rank in a leaf."""

    __slots__ = ("below", "count", "heap")

    def __init__(self) -> None:
        self.count = 0
        self.below: dict[str, Branch] = {}
        self.heap: list[tuple[Rank, Node]] = []

    def empty(self) -> bool:
        """Whether no feasible node is left below."""
        return not self.heap and all(branch.empty() for branch in self.below.values())


class Tree:
    """Feasible nodes of one group by spread labels."""

    def __init__(
        self, readers: Sequence[Callable[[Node], str]], rank: Callable[[Node], Rank]
    ) -> None:
        self._readers = tuple(readers)
        self._rank = rank
        self._root = Branch()

    def count(self, nodes: Iterable[tuple[Node, int]]) -> None:
        """Take in how many tasks of the service nodes have; not needed without labels."""
        for node, tasks in nodes:
            for branch in self._path(node):
                branch.count += tasks

    def offer(self, node: Node) -> None:
        """A node that may take a task."""
        leaf = self._path(node)[-1]
        heapq.heappush(leaf.heap, (self._rank(node), node))

    def fill(self, nodes: Sequence[Node]) -> None:
        """Offer many nodes."""
        if self._readers:
            for node in nodes:
                self.offer(node)
            return
        self._root.heap = [(self._rank(node), node) for node in nodes]
        heapq.heapify(self._root.heap)

    def take(self) -> Node | None:
        """The best node, taken out; `placed` counts it and `offer` puts it back."""
        branch = self._root
        while branch.below:
            open_ = [
                (below.count, label)
                for label, below in branch.below.items()
                if not below.empty()
            ]
            if not open_:
                return None
            branch = branch.below[min(open_)[1]]
        return heapq.heappop(branch.heap)[1] if branch.heap else None

    def placed(self, node: Node) -> None:
        """A task of the service was put on the node."""
        for branch in self._path(node):
            branch.count += 1

    def _path(self, node: Node) -> list[Branch]:
        path = [self._root]
        for read in self._readers:
            path.append(path[-1].below.setdefault(read(node), Branch()))
        return path
