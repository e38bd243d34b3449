"""Single addresses of a network: which may be given, and the next that is free. Pure.

Next-fit: the search begins behind the address that was taken last, so that one which was let go
is not given again at once. Excluded are the network's own and broadcast address, the gateway
and what the user reserved.
"""

from functools import lru_cache

import msgspec

from manager.view import NetworkUse, View
from shoal.model.addresses import network_of, number_of, text_of
from shoal.model.ids import NetworkID
from shoal.model.objects import Network, NetworkPool

# Of the ingress network's pool the beginning is for services' addresses, the rest for nodes.
INGRESS_SHARE = 7
INGRESS_PREFIX = 24


class Range(msgspec.Struct, frozen=True):
    """The addresses of a pool that may be given, as numbers from `first` to `last`."""

    family: int
    prefix: int
    first: int
    last: int
    excluded: frozenset[int]

    @property
    def size(self) -> int:
        """How many there are."""
        return self.last - self.first + 1 - len(self.excluded)


@lru_cache(maxsize=4096)
def range_of(subnet: str, ip_range: str, excluded: frozenset[str]) -> Range:
    """The range of a pool; worked out once."""
    whole = network_of(subnet)
    part = network_of(ip_range) if ip_range else whole
    first, last = int(part.network_address), int(part.broadcast_address)
    kept = {number_of(address) for address in excluded}
    kept.add(int(whole.network_address))
    if whole.version == 4:
        kept.add(int(whole.broadcast_address))
    held = frozenset(number for number in kept if first <= number <= last)
    return Range(whole.version, whole.prefixlen, first, last, held)


def range_of_pool(network: Network, pool: NetworkPool) -> Range:
    """What may be given of one pool of a network."""
    excluded = {address for address in (pool.gateway, *pool.reserved.values()) if address}
    part = pool.ip_range
    if network.spec.ingress:
        part = ingress_share(pool.subnet)
    return range_of(pool.subnet, part, frozenset(excluded))


def ingress_share(pool: str) -> str:
    """The beginning of the ingress pool, which services get addresses from.

    >>> ingress_share("10.128.0.0/9"), ingress_share("10.9.0.0/20")
    ('10.128.0.0/16', '10.9.0.0/24')
    """
    network = network_of(pool)
    prefix = max(network.prefixlen, min(network.prefixlen + INGRESS_SHARE, INGRESS_PREFIX))
    return f"{network.network_address}/{prefix}"


class Giver:
    """Gives addresses within one decision: what it has given counts before anyone sees it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._given: dict[NetworkID, set[int]] = {}
        self._last: dict[tuple[NetworkID, int], int] = {}

    def give(self, network: Network, pool: NetworkPool) -> str | None:
        """A free address with its prefix length; None where all are taken."""
        use = self._view.network_use(network.id)
        given = self._given.setdefault(network.id, set())
        span = range_of_pool(network, pool)
        at = (network.id, span.family)
        number = _next_free(span, use, given, self._last.get(at))
        if number is None:
            return None
        given.add(number)
        self._last[at] = number
        return f"{text_of(number, span.family)}/{span.prefix}"


def _next_free(span: Range, use: NetworkUse, given: set[int], last: int | None) -> int | None:
    if last is None:
        last = use.last.get(span.family)
    start = span.first if last is None or not span.first <= last < span.last else last + 1
    for numbers in (range(start, span.last + 1), range(span.first, start)):
        for number in numbers:
            if number not in use.taken and number not in given and number not in span.excluded:
                return number
    return None


def exhausted(network: Network, pool: NetworkPool) -> str:
    """The sentence of a pool that is used up."""
    size = range_of_pool(network, pool).size
    return (
        f"no free address in network {network.name} ({pool.ip_range or pool.subnet}):"
        f" all {size} are in use"
    )
