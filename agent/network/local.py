"""Networks of this host alone, as the engine asks for them: plain values that go to disk. Pure.

Docker's network `bridge` is none of them: it is always there, and the instance's own.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

import msgspec

Driver = Literal["bridge", "macvlan", "ipvlan"]


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet of a network.

    Attributes:
        gateway: empty where containers reach nothing beyond the subnet.
        within: where containers' addresses come from; empty is all of the subnet.
        reserved: addresses that no container gets.
    """

    subnet: str
    gateway: str = ""
    within: str = ""
    reserved: tuple[str, ...] = ()

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The subnet as a value."""
        return ip_network(self.subnet)


class LocalNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of this host.

    Attributes:
        number: names its bridge; no two networks of a host have the same.
        pools: one of IPv4, and at most one of IPv6.
        internal: nothing leads out of it or in.
        masquerade: what leaves it leaves with the host's address.
        isolated: its containers reach each other by published ports only.
        parent: the host's link that macvlan and ipvlan stand on.
        mode, flag: of macvlan and ipvlan, by the kernel's names.
    """

    id: str
    name: str
    number: int
    driver: Driver = "bridge"
    pools: tuple[Pool, ...]
    internal: bool = False
    masquerade: bool = True
    isolated: bool = False
    mtu: int = 1500
    parent: str = ""
    mode: str = ""
    flag: str = ""

    @property
    def bridged(self) -> bool:
        """Whether it has a bridge of ours on the host."""
        return self.driver == "bridge"
