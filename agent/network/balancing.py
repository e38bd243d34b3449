"""Which virtual IPs a container needs and where each leads, and what to change for that. Pure.

A virtual IP picks a backend by a random number out of one of its two ranges. A change puts the
new backends into the range not in use and then leads there: packets that are being handled at
that moment still find the old ones, which are deleted with the change after. `vip_rules` says
it to nftables.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from shoal.model.assignment import NetworkEndpoint, NetworkService

MOST_BACKENDS = 1 << 15
"""Of one virtual IP: the size of a range."""

Backends = tuple[str, ...]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual IP as it is in the kernel.

    Attributes:
        half: the range it uses, 0 or 1.
        left: how many backends are still in its other range.
    """

    address: str
    half: int
    backends: Backends
    left: int = 0


class Move(msgspec.Struct, frozen=True):
    """From one place to another; from nothing, or to nothing."""

    old: Placed | None
    new: Placed | None

    def lost(self) -> Iterator[tuple[str, str]]:
        """Virtual IP and backend for each backend that it has no more."""
        if self.old is not None:
            kept = set(self.new.backends) if self.new is not None else set()
            for backend in self.old.backends:
                if backend not in kept:
                    yield self.old.address, backend


def virtual_ips(
    service: NetworkService, endpoints: Iterable[NetworkEndpoint]
) -> dict[str, Backends]:
    """A service's virtual IPs on a network and their serving backends, of its endpoints."""
    found: dict[str, Backends] = {}
    serving = [each for each in endpoints if each.serving]
    for address in service.virtual_ips:
        own = canonical(address)
        wanted = family(own)
        backends = {
            canonical(each)
            for endpoint in serving
            for each in endpoint.addresses
            if family(each) == wanted
        }
        found[own] = tuple(sorted(backends)[:MOST_BACKENDS])
    return found


def changes(
    old: Mapping[str, Backends], new: Mapping[str, Backends]
) -> dict[str, Backends | None]:
    """What is other in `new`, None for what is not in it."""
    found: dict[str, Backends | None] = {
        address: backends for address, backends in new.items() if old.get(address) != backends
    }
    return found | dict.fromkeys(address for address in old if address not in new)


def moves(
    placed: Mapping[str, Placed], wanted: Mapping[str, Backends | None]
) -> tuple[Move, ...]:
    """The moves that lead to what is wanted of these virtual IPs; others stay."""
    found: list[Move] = []
    for address, backends in wanted.items():
        old = placed.get(address)
        if backends is None:
            if old is not None:
                found.append(Move(old, None))
        elif old is None:
            found.append(Move(None, Placed(address=address, half=0, backends=backends)))
        elif old.backends != backends:
            left, half = len(old.backends), 1 - old.half
            new = Placed(address=address, half=half, backends=backends, left=left)
            found.append(Move(old, new))
    return tuple(found)


def moved(placed: Mapping[str, Placed], done: Iterable[Move]) -> dict[str, Placed]:
    """The places after the moves."""
    after = dict(placed)
    for move in done:
        if move.new is not None:
            after[move.new.address] = move.new
        elif move.old is not None:
            del after[move.old.address]
    return after


def placed_from(address: str, half: int, count: int, keys: dict[int, str]) -> Placed:
    """The place of a virtual IP as read back.

    Args:
        address: the virtual IP.
        half: of the range it uses.
        count: how many it chooses from.
        keys: what is in both its ranges.

    Raises:
        ValueError: that is not what we would have made.
    """
    start = half * MOST_BACKENDS
    backends = tuple(keys[key] for key in range(start, start + count) if key in keys)
    left = len(keys) - len(backends)
    other = (1 - half) * MOST_BACKENDS
    if len(backends) != count or any(other + n not in keys for n in range(left)):
        raise ValueError(f"{address} is not as we make it")
    return Placed(address=address, half=half, backends=backends, left=left)


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


@lru_cache(maxsize=8192)
def canonical(address: str) -> str:
    """As the kernel's own form has it."""
    return str(ip_address(address))


@lru_cache(maxsize=8192)
def packed(address: str) -> bytes:
    """The bytes of an address."""
    return ip_address(address).packed
