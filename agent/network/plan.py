"""From what is desired to kernel objects: links, addresses, routes, neighbours, forwarding.

Pure. The mesh is routed, not bridged: each peer's subnet is one route over the VXLAN device to
that peer's gateway address, which has one permanent neighbour and one forwarding entry, so
nothing is ever flooded or learned. A peer's VXLAN hardware address follows from its subnet, so
hosts need to tell each other nothing. `apply` compares a plan with the kernel, `nftables` makes
the rules for the same names.
"""

import itertools
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

import msgspec

from agent.network.desired import Endpoint, Mesh
from agent.network.endpoints import mac_of
from shoal.model.errors import InvalidArgument

VXLAN_OVERHEAD = 50
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,5}")


class Names(msgspec.Struct, frozen=True):
    """The kernel's names of everything one instance owns; link names have at most 15 bytes."""

    prefix: str

    @property
    def local_bridge(self) -> str:
        return f"{self.prefix}-l"

    @property
    def mesh_bridge(self) -> str:
        return f"{self.prefix}-c"

    @property
    def vxlan(self) -> str:
        return f"{self.prefix}-x"

    def tunnel(self, slot: int) -> str:
        """A WireGuard device; there are two at most."""
        return f"{self.prefix}-w{slot}"

    @property
    def table(self) -> str:
        return f"shoal_{self.prefix}"

    def veth(self, address: IPv4Address | str) -> str:
        """The host's end of the container that has this address."""
        return f"{self.prefix}{int(IPv4Address(address)):08x}"

    def is_veth(self, link: str) -> bool:
        tail = link.removeprefix(self.prefix)
        return tail != link and re.fullmatch(r"[0-9a-f]{8}", tail) is not None

    def owns(self, link: str) -> bool:
        return link in (self.local_bridge, self.mesh_bridge, self.vxlan) or self.is_veth(link)


def names_for(prefix: str) -> Names:
    """Check a prefix and derive the names.

    Raises:
        InvalidArgument: not 1 to 6 lower-case letters and digits.
    """
    if not _PREFIX.fullmatch(prefix):
        raise InvalidArgument(
            f"link name prefix {prefix!r} must be 1 to 6 lower-case letters and digits, "
            "starting with a letter",
            field="prefix",
        )
    return Names(prefix)


class Bridge(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge whose own address is its containers' gateway."""

    name: str
    address: str
    prefix_length: int
    mtu: int

    @property
    def mac(self) -> str:
        return mac_of(self.address)


class Vxlan(msgspec.Struct, frozen=True, kw_only=True):
    """The device to all peers. A change of anything but the MTU makes it anew."""

    name: str
    vni: int
    port: int
    local: str
    mac: str
    mtu: int


class Route(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A peer's subnet: over the VXLAN device, sent from this host's own gateway address."""

    subnet: str
    via: str
    source: str


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A peer's gateway and the hardware address to use for it."""

    address: str
    mac: str


class Forwarding(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Which host a hardware address is behind."""

    mac: str
    underlay: str


class Port(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A container's link on the host and the bridge it belongs to."""

    name: str
    bridge: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All kernel objects of an instance except its rules."""

    bridges: tuple[Bridge, ...]
    vxlan: Vxlan | None = None
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    forwarding: tuple[Forwarding, ...] = ()
    ports: tuple[Port, ...] = ()


def gateway_of(subnet: str | IPv4Network) -> str:
    """The first usable address of a subnet."""
    return str(IPv4Network(subnet).network_address + 1)


def vxlan_mac(subnet: str) -> str:
    """The VXLAN hardware address of the host that has this subnet."""
    return mac_of(gateway_of(subnet)).replace("02:42:", "02:53:", 1)


def make_plan(
    names: Names,
    local_subnet: IPv4Network,
    mesh: Mesh | None,
    endpoints: Iterable[Endpoint],
    underlay_mtu: int = 1500,
) -> Plan:
    """Derive everything; the same input gives the same plan, in the same order."""
    bridges = [
        Bridge(
            name=names.local_bridge,
            address=gateway_of(local_subnet),
            prefix_length=local_subnet.prefixlen,
            mtu=1500,
        )
    ]
    ports = tuple(sorted(_port(names, each) for each in endpoints if each.address))
    if mesh is None:
        return Plan(bridges=tuple(bridges), ports=ports)
    mtu = underlay_mtu - VXLAN_OVERHEAD
    own = IPv4Network(mesh.subnet)
    bridges.append(
        Bridge(
            name=names.mesh_bridge,
            address=gateway_of(own),
            prefix_length=own.prefixlen,
            mtu=mtu,
        )
    )
    peers = sorted(
        (each for each in mesh.peers if each.subnet != mesh.subnet), key=lambda p: p.subnet
    )
    return Plan(
        bridges=tuple(bridges),
        vxlan=Vxlan(
            name=names.vxlan,
            vni=mesh.vni,
            port=mesh.udp_port,
            local=mesh.underlay,
            mac=vxlan_mac(mesh.subnet),
            mtu=mtu,
        ),
        routes=tuple(
            Route(subnet=p.subnet, via=gateway_of(p.subnet), source=gateway_of(own))
            for p in peers
        ),
        neighbours=tuple(
            Neighbour(address=gateway_of(p.subnet), mac=vxlan_mac(p.subnet)) for p in peers
        ),
        forwarding=tuple(
            Forwarding(mac=vxlan_mac(p.subnet), underlay=p.underlay) for p in peers
        ),
        ports=ports,
    )


def _port(names: Names, endpoint: Endpoint) -> Port:
    bridge = names.mesh_bridge if endpoint.network == "mesh" else names.local_bridge
    return Port(name=names.veth(endpoint.address), bridge=bridge)


def check_mesh(mesh: Mesh, local_subnet: IPv4Network) -> None:
    """Refuse a mesh that cannot be built.

    Raises:
        InvalidArgument: a malformed address, or subnets that overlap.
    """
    try:
        IPv4Address(mesh.underlay)
        subnets = [IPv4Network(mesh.subnet)]
        for peer in mesh.peers:
            IPv4Address(peer.underlay)
            if peer.subnet != mesh.subnet:
                subnets.append(IPv4Network(peer.subnet))
    except ValueError as error:
        raise InvalidArgument(f"mesh: {error}", field="mesh") from error
    subnets.sort()
    for lower, upper in itertools.pairwise(subnets):
        if lower.overlaps(upper):
            raise InvalidArgument(f"mesh: subnets {lower} and {upper} overlap", field="mesh")
    for subnet in subnets:
        if subnet.overlaps(local_subnet):
            raise InvalidArgument(
                f"mesh: subnet {subnet} overlaps the local network {local_subnet}",
                field="mesh",
            )
