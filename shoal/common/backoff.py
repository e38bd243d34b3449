"""Growing delays as data: settings in, seconds out. Pure; waiting is the caller's."""

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct


class Chance(Protocol):
    """A source of random numbers; `random.Random` is one."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class Backoff(Struct, frozen=True, kw_only=True):
    """Delays from `first`, times `factor` each, up to `cap` seconds.

    `jitter` is the part of each delay left to chance: 0.2 spreads it over its last fifth, so
    that a delay is never longer than the cap.
    """

    first: float = 0.1
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.2

    def delays(self, chance: Chance) -> Iterator[float]:
        """Delays without end; ask for a new iterator to start over."""
        for delay in self.longest():
            yield delay * (1 - self.jitter * chance.random())

    def longest(self) -> Iterator[float]:
        """The same with nothing left to chance: each as long as it can be."""
        delay = min(self.first, self.cap)
        while True:
            yield delay
            delay = min(delay * self.factor, self.cap)
