"""Addresses of one host-local subnet: which are taken and by whom.

The pool moves on before it comes back (lowest free address after the last one given), so that
an address just freed rests while the dead container's link still vanishes. Nothing is kept on
disk: the caller's endpoints are the record, `take` restores them. Used by `instance`.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from shoal.model.errors import ResourceExhausted

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def mac_of(address: IPv4Address | str) -> str:
    """A container's hardware address follows from its address, as Docker's does."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


class AddressPool:
    """The addresses of a subnet except network, gateway and broadcast.

    Args:
        subnet: what addresses may be asked for by name.
        gateway: not the first address, if it is given.
        within: the part of the subnet that addresses are given out of.
        reserved: addresses that nobody gets.
    """

    def __init__(
        self,
        subnet: Network,
        *,
        gateway: Address | None = None,
        within: Network | None = None,
        reserved: Iterable[Address] = (),
    ) -> None:
        self.subnet = subnet
        self.gateway = gateway or subnet.network_address + 1
        within = within or subnet
        self._first = int(within.network_address)
        self._count = within.num_addresses
        self._kept = {subnet.network_address, self.gateway, *reserved}
        if subnet.version == 4:
            self._kept.add(subnet.broadcast_address)
        kept = sum(1 for each in self._kept if each in within)
        self._size = max(0, self._count - kept)
        self._next = 0
        self._taken: dict[Address, str] = {}

    def allocate(self, owner: str) -> Address:
        """Give the next free address.

        Raises:
            ResourceExhausted: all are taken.
        """
        given = sum(1 for each in self._taken if self._offset(each) is not None)
        if given >= self._size:
            raise ResourceExhausted(
                f"no free address in {self.subnet}: all {self._size} are in use on this host"
            )
        while True:
            address = self.subnet.network_address.__class__(self._first + self._next)
            self._next = (self._next + 1) % self._count
            if address not in self._taken and address not in self._kept:
                self._taken[address] = owner
                return address

    def take(self, owner: str, address: Address) -> bool:
        """Mark an address as in use by `owner`; False if another's or not of this pool."""
        if address not in self.subnet or address in self._kept:
            return False
        if self._taken.setdefault(address, owner) != owner:
            return False
        offset = self._offset(address)
        if offset is not None:
            self._next = max(self._next, (offset + 1) % self._count)
        return True

    def _offset(self, address: Address) -> int | None:
        """Where it is in the part that addresses are given out of."""
        offset = int(address) - self._first
        return offset if 0 <= offset < self._count else None

    def free(self, address: Address) -> None:
        """Give an address back; one that is not taken is no error."""
        self._taken.pop(address, None)

    def __len__(self) -> int:
        return len(self._taken)
