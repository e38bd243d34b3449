"""A token bucket per caller, in bounded memory. Pure: the time is given.

The joining listener counts addresses with it. When more callers than `remembered` are about,
the one seen longest ago is forgotten, which gives it a full bucket again.
"""

from collections import OrderedDict

from msgspec import Struct


class Rate(Struct, frozen=True, kw_only=True):
    """So many at once, then so many a second."""

    burst: float = 20.0
    per_second: float = 2.0
    remembered: int = 4096


class RateLimit:
    """Remembers how much each caller has left."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float) -> float:
        """Use one; 0 if it was there, else the seconds until there is one again."""
        rate = self._rate
        left, seen = self._left.pop(caller, (rate.burst, now))
        left = min(rate.burst, left + max(0.0, now - seen) * rate.per_second)
        wait = 0.0 if left >= 1 else (1 - left) / rate.per_second
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > rate.remembered:
            self._left.popitem(last=False)
        return wait
