"""The subnets that this host gives addresses of: its own networks' and its part of the mesh.

Managers give those of cluster networks. Nothing is kept on disk: the callers' endpoints are
the record. Used by `instance`.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

from agent.network.desired import BRIDGE, MESH, Attachment, Endpoint, Interface, Mesh
from agent.network.endpoints import AddressPool, mac_of
from agent.network.local import LocalNetwork, Pool
from agent.network.plan import Names, ipv6_of
from agent.network.tunnel import inner_addresses
from shoal.model.errors import Conflict, FailedPrecondition, InvalidArgument


class HostSubnets:
    """Address pools of the host's networks."""

    def __init__(self, names: Names, local: IPv4Network, *, ipv6: bool) -> None:
        self._names = names
        self._pools = {BRIDGE: AddressPool(local)}
        self._ipv6 = ipv6
        self._prefix6 = ""
        self._local: dict[str, tuple[LocalNetwork, tuple[AddressPool, ...]]] = {}

    @property
    def local(self) -> tuple[LocalNetwork, ...]:
        """The networks of this host alone, besides `bridge`, in the order of their numbers."""
        known = (network for network, _ in self._local.values())
        return tuple(sorted(known, key=lambda each: each.number))

    def find_local(self, network: str) -> LocalNetwork | None:
        """A network of this host alone by its id."""
        known = self._local.get(network)
        return known[0] if known is not None else None

    def set_local(self, networks: Iterable[LocalNetwork], used: Iterable[str]) -> None:
        """Take these as all networks of this host; addresses that are given stay so.

        Raises:
            FailedPrecondition: one of the `used` is to go.
        """
        new = {each.id: each for each in networks}
        gone = [each for each in self._local if each not in new and each in {*used}]
        if gone:
            name = self._local[gone[0]][0].name
            raise FailedPrecondition(f"network {name} has active endpoints")
        self._local = {
            key: self._local[key] if key in self._local else (each, _pools(each))
            for key, each in new.items()
        }

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
            self._pools[MESH] = AddressPool(new, reserved=inner_addresses(new))
        for container, interface in attached:
            self.take(container, interface)

    def give(self, container: str, attachment: Attachment) -> Interface:
        """A place on a network with addresses, a hardware address and gateways.

        Raises:
            ResourceExhausted: no address is left.
            FailedPrecondition: this host has no such network now.
            InvalidArgument, Conflict: an address that is asked for cannot be given.
        """
        network = attachment.network
        if network in self._local:
            return self._give_local(container, attachment)
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
            link=self._names.veth(str(address)),
            addresses=tuple(addresses),
            gateways=tuple(gateways),
            mac=attachment.mac or mac_of(str(address)),
        )

    def _give_local(self, container: str, attachment: Attachment) -> Interface:
        network, pools = self._local[attachment.network]
        versions = {pool.subnet.version for pool in pools}
        for text in attachment.addresses:
            if ip_address(text.partition("/")[0]).version not in versions:
                raise InvalidArgument(
                    f"address {text} cannot be had on network {network.name}, which has no"
                    " subnet of its family"
                )
        given: list[str] = []
        try:
            for pool in pools:
                given.append(_address(network, pool, container, attachment))  # noqa: PERF401
        except BaseException:
            for pool, address in zip(pools, given, strict=False):
                pool.free(ip_address(address))
            raise
        lengths = (pool.subnet.prefixlen for pool in pools)
        leads = {} if network.internal else {p.subnet: p.gateway for p in network.pools}
        return Interface(
            network=network.id,
            link=self._names.veth(given[0]) if network.bridged else "",
            addresses=tuple(f"{a}/{n}" for a, n in zip(given, lengths, strict=True)),
            gateways=tuple(each for each in leads.values() if each),
            mac=attachment.mac or mac_of(given[0]),
        )

    def gateways(self, network: str) -> tuple[str, ...]:
        """By which a network of this host leads out."""
        known = self.find_local(network)
        if known is not None:
            return () if known.internal else tuple(p.gateway for p in known.pools if p.gateway)
        pool = self._pools.get(network)
        return (str(pool.gateway),) if pool is not None else ()

    def take(self, container: str, interface: Interface) -> None:
        """Mark a place as taken, after a restart.

        Raises:
            FailedPrecondition: its address is another's or of another subnet.
        """
        for pool, address in self._taken(interface):
            if not pool.take(container, ip_address(address)):
                raise FailedPrecondition(
                    f"address {address} of container {container} is another's or not in"
                    f" {pool.subnet}"
                )

    def free(self, interface: Interface) -> None:
        """Give the addresses of a place back; those of a cluster network are not ours."""
        for pool, address in self._taken(interface):
            pool.free(ip_address(address))

    def _taken(self, interface: Interface) -> list[tuple[AddressPool, str]]:
        """The addresses of a place that are ours to give, each with its pool."""
        pool = self._pools.get(interface.network)
        if pool is not None:
            return [(pool, interface.ipv4)]
        _, pools = self._local.get(interface.network, (None, ()))
        addresses = (each.partition("/")[0] for each in interface.addresses)
        return list(zip(pools, addresses, strict=True)) if pools else []


def _pools(network: LocalNetwork) -> tuple[AddressPool, ...]:
    return tuple(_pool(each) for each in network.pools)


def _pool(pool: Pool) -> AddressPool:
    return AddressPool(
        pool.network,
        gateway=ip_address(pool.gateway) if pool.gateway else None,
        within=ip_network(pool.within) if pool.within else None,
        reserved=[ip_address(each) for each in pool.reserved],
    )


def _address(
    network: LocalNetwork, pool: AddressPool, container: str, attachment: Attachment
) -> str:
    """The one asked for, or any."""
    wanted = [
        each
        for each in (ip_address(text.partition("/")[0]) for text in attachment.addresses)
        if each.version == pool.subnet.version
    ]
    if not wanted:
        return str(pool.allocate(container))
    if wanted[0] not in pool.subnet:
        raise InvalidArgument(
            f"address {wanted[0]} is not in {pool.subnet}, the subnet of network {network.name}"
        )
    if not pool.take(container, wanted[0]):
        raise Conflict(f"Address already in use: {wanted[0]} on network {network.name}")
    return str(wanted[0])
