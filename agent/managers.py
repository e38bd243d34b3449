"""Which manager to try next: by chance, those that failed less likely. Pure.

Weights as in swarmkit (`remotes`): every outcome moves a manager's weight up or down between
bounds, so that a manager that is back is soon used again. Chance is an argument. Used by
`agent.session`.
"""

from collections.abc import Iterable

from shoal.common.backoff import Chance
from shoal.model.assignment import ManagerAddress

BEST = 16
WORST = 1


class Managers:
    """The managers this node knows; the list of the last assignment replaces all."""

    def __init__(self, known: Iterable[ManagerAddress] = ()) -> None:
        self._weights: dict[str, int] = {}
        self.replace(known)

    def replace(self, known: Iterable[ManagerAddress]) -> None:
        """These are all; what was learnt of those that stay is kept. An empty list is no news.

        A node that forgot all its managers could never come back.
        """
        addresses = [manager.address for manager in known if manager.address]
        if addresses:
            self._weights = {a: self._weights.get(a, BEST) for a in addresses}

    def addresses(self) -> tuple[str, ...]:
        """All of them, the most trusted first."""
        return tuple(sorted(self._weights, key=lambda a: (-self._weights[a], a)))

    def choose(self, chance: Chance, avoid: str = "") -> str:
        """One by weight; `avoid` only if there is no other. Empty when none is known."""
        candidates = [a for a in self._weights if a != avoid] or list(self._weights)
        left = chance.random() * sum(self._weights[a] for a in candidates)
        for address in candidates:
            left -= self._weights[address]
            if left < 0:
                return address
        return candidates[-1] if candidates else ""

    def succeeded(self, address: str) -> None:
        """It opened a session."""
        if address in self._weights:
            self._weights[address] = BEST

    def failed(self, address: str) -> None:
        """It did not answer, or its session broke."""
        if address in self._weights:
            self._weights[address] = max(WORST, self._weights[address] // 4)
