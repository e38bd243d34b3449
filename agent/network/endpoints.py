"""Addresses of one host-local subnet: which are taken and by whom.

The pool moves on before it comes back (lowest free address after the last one given), so that
an address just freed rests while the dead container's link still vanishes. Nothing is kept on
disk: the caller's endpoints are the record, `take` restores them. Used by `instance`.
"""

from ipaddress import IPv4Address, IPv4Network

from shoal.model.errors import ResourceExhausted


def mac_of(address: IPv4Address | str) -> str:
    """A container's hardware address follows from its address, as Docker's does."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


class AddressPool:
    """The addresses of a subnet except network, gateway and broadcast."""

    def __init__(self, subnet: IPv4Network) -> None:
        self.subnet = subnet
        self.gateway = subnet.network_address + 1
        self._first = int(self.gateway) + 1
        self._size = max(0, int(subnet.broadcast_address) - self._first)
        self._next = 0
        self._taken: dict[IPv4Address, str] = {}

    def allocate(self, owner: str) -> IPv4Address:
        """Give the next free address.

        Raises:
            ResourceExhausted: all are taken.
        """
        if len(self._taken) >= self._size:
            raise ResourceExhausted(
                f"no free address in {self.subnet}: all {self._size} are in use on this host"
            )
        while True:
            address = IPv4Address(self._first + self._next)
            self._next = (self._next + 1) % self._size
            if address not in self._taken:
                self._taken[address] = owner
                return address

    def take(self, owner: str, address: IPv4Address) -> bool:
        """Mark an address as in use by `owner`; False if another's or not of this pool."""
        if not 0 <= int(address) - self._first < self._size:
            return False
        if self._taken.setdefault(address, owner) != owner:
            return False
        self._next = max(self._next, (int(address) - self._first + 1) % self._size)
        return True

    def free(self, address: IPv4Address) -> None:
        """Give an address back; one that is not taken is no error."""
        self._taken.pop(address, None)

    def __len__(self) -> int:
        return len(self._taken)
