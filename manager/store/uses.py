"""What an object holds of networks: addresses, and a place among those that wait for some.

Tasks that have ended hold nothing, though their record keeps saying what they had. Called by
`tables`, which keeps the sums by difference. Pure.
"""

from typing import TypeVar

import msgspec

from manager.view import NetworkUse
from shoal.model.addresses import family_of, number_of
from shoal.model.ids import NetworkID, ServiceID
from shoal.model.objects import Service, StoredObject, Task
from shoal.model.states import TaskState


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Addresses as (network, address), and the networks that `waiting` waits for."""

    addresses: tuple[tuple[NetworkID, str], ...] = ()
    waits_for: tuple[NetworkID, ...] = ()
    waiting: ServiceID = ServiceID("")

    @property
    def networks(self) -> tuple[NetworkID, ...]:
        """All of them, each once."""
        found = dict.fromkeys(network for network, _ in self.addresses)
        return tuple(found | dict.fromkeys(self.waits_for))

    def less(self, other: "Held") -> "Held":
        """What is held here and not there."""
        same = self.waiting == other.waiting
        return Held(
            addresses=tuple(one for one in self.addresses if one not in other.addresses),
            waits_for=tuple(n for n in self.waits_for if not same or n not in other.waits_for),
            waiting=self.waiting,
        )


NOTHING_HELD = Held()


def held_by(thing: StoredObject | None) -> Held:
    """What an object holds."""
    match thing:
        case Task():
            return _held_by_task(thing)
        case Service() if thing.endpoint.virtual_ips:
            ips = thing.endpoint.virtual_ips
            return Held(addresses=tuple((ip.network_id, ip.addr) for ip in ips))
        case _:
            return NOTHING_HELD


def _held_by_task(task: Task) -> Held:
    if task.ended:
        return NOTHING_HELD
    if task.networks:
        return Held(
            addresses=tuple(
                (one.network_id, address) for one in task.networks for address in one.addresses
            )
        )
    if task.status.state is TaskState.NEW and task.status.err and task.attached is None:
        if not task.wanted:
            return NOTHING_HELD
        targets = dict.fromkeys(NetworkID(one.target) for one in task.spec.networks)
        return Held(waits_for=tuple(targets), waiting=task.service_id)
    return NOTHING_HELD


def use_network(use: NetworkUse, held: Held, network: NetworkID, sign: int) -> None:
    """Add what is held of one network to its sums (sign 1), or take it out (sign -1)."""
    for where, address in held.addresses:
        if where != network:
            continue
        number = number_of(address)
        if sign > 0 and number not in use.taken:
            use.last[family_of(address)] = number
        bump(use.taken, number, sign)
    if network in held.waits_for:
        bump(use.waiting, held.waiting, sign)


K = TypeVar("K")


def bump(counts: dict[K, int], key: K, by: int) -> None:
    """Count up or down; what comes to zero is not kept."""
    value = counts.get(key, 0) + by
    if value:
        counts[key] = value
    else:
        counts.pop(key, None)
