"""The subnets that this host gives addresses of by itself: `bridge` and its part of the mesh.

Managers give those of cluster networks. Nothing is kept on disk: the callers' endpoints are
the record. Used by `instance`.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from agent.network.desired import BRIDGE, MESH, Endpoint, Interface, Mesh
from agent.network.endpoints import AddressPool, mac_of
from agent.network.plan import Names, ipv6_of
from shoal.model.errors import FailedPrecondition


class HostSubnets:
    """Address pools of the two host networks."""

    def __init__(self, names: Names, local: IPv4Network, *, ipv6: bool) -> None:
        self._names = names
        self._pools = {BRIDGE: AddressPool(local)}
        self._ipv6 = ipv6
        self._prefix6 = ""

    def set_mesh(self, mesh: Mesh | None, endpoints: Iterable[Endpoint]) -> None:
        """Take another subnet for tasks.

        Raises:
            FailedPrecondition: tasks are attached to the old one.
        """
        self._prefix6 = mesh.prefix6 if mesh is not None and self._ipv6 else ""
        new = IPv4Network(mesh.subnet) if mesh is not None else None
        old = self._pools.get(MESH)
        if new == (old.subnet if old is not None else None):
            return
        attached = [
            (endpoint.container, interface)
            for endpoint in endpoints
            if (interface := endpoint.on(MESH)) is not None
        ]
        strangers = sorted(
            container
            for container, interface in attached
            if new is None or IPv4Address(interface.ipv4) not in new
        )
        if strangers:
            raise FailedPrecondition(
                f"the subnet for service tasks cannot change to {new} while these are "
                f"attached to the old one: {', '.join(strangers)}"
            )
        self._pools.pop(MESH, None)
        if new is not None:
            self._pools[MESH] = AddressPool(new)
        for container, interface in attached:
            self.take(container, interface)

    def give(self, container: str, network: str) -> Interface:
        """A place on a network with addresses, a hardware address and gateways.

        Raises:
            ResourceExhausted: no address is left.
            FailedPrecondition: this host has no such network now.
        """
        pool = self._pools.get(network)
        if pool is None:
            raise FailedPrecondition(
                "this host has no subnet for service tasks yet: no manager has assigned one"
            )
        address = pool.allocate(container)
        addresses, gateways = [f"{address}/{pool.subnet.prefixlen}"], [str(pool.gateway)]
        if network == MESH and self._prefix6:
            length = IPv6Network(self._prefix6).prefixlen + pool.subnet.prefixlen
            addresses.append(f"{ipv6_of(self._prefix6, str(address))}/{length}")
            gateways.append(ipv6_of(self._prefix6, str(pool.gateway)))
        return Interface(
            network=network,
            link=self._names.veth(address),
            addresses=tuple(addresses),
            gateways=tuple(gateways),
            mac=mac_of(address),
        )

    def take(self, container: str, interface: Interface) -> None:
        """Mark a place as taken, after a restart.

        Raises:
            FailedPrecondition: its address is another's or of another subnet.
        """
        pool = self._pools.get(interface.network)
        if pool is not None and not pool.take(container, IPv4Address(interface.ipv4)):
            raise FailedPrecondition(
                f"address {interface.ipv4} of container {container} is another's or not in "
                f"{pool.subnet}"
            )

    def free(self, interface: Interface) -> None:
        """Give the addresses of a place back; those of a cluster network are not ours."""
        pool = self._pools.get(interface.network)
        if pool is not None:
            pool.free(IPv4Address(interface.ipv4))
