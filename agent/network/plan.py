"""From what is desired to kernel objects: links, addresses, routes, neighbours, forwarding.

Pure. The mesh is routed, not bridged: each peer's subnet is one route over the VXLAN device to
that peer's gateway address, which has one permanent neighbour and one forwarding entry, so
nothing is ever flooded or learned. A peer's VXLAN hardware address follows from its subnet, so
hosts need to tell each other nothing. A cluster network (`Overlay`) is a bridge with a VXLAN
device as one port, which answers for all remote endpoints out of its entries. `apply` compares
a plan with the kernel, `nftables` makes the rules for the same names.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec

from agent.network.desired import (
    BRIDGE,
    DEFAULT_VXLAN_PORT,
    MESH,
    Endpoint,
    Interface,
    Mesh,
    Peer,
)
from agent.network.endpoints import mac_of
from agent.network.local import LocalNetwork
from agent.network.tunnel import SLOTS, overhead
from shoal.model.errors import InvalidArgument
from shoal.model.ids import NetworkID

VXLAN_OVERHEAD = 50
LINK_LOCAL = "fe80::1/64"
"""A router without one asks nobody for the hardware address behind what it forwards."""
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
    def overlay_bridges(self) -> str:
        """All bridges of cluster networks, as nftables matches them."""
        return f"{self.prefix}-b*"

    @property
    def table(self) -> str:
        return f"shoal_{self.prefix}"

    def user_bridge(self, number: int) -> str:
        """The bridge of a user's network of this host."""
        return f"{self.prefix}-n{number}"

    def is_user_bridge(self, link: str) -> bool:
        """Whether it is the bridge of a user's network."""
        tail = link.removeprefix(self.prefix)
        return tail != link and re.fullmatch(r"-n[0-9]{1,7}", tail) is not None

    def overlay_bridge(self, vni: int) -> str:
        """The bridge of a cluster network."""
        return f"{self.prefix}-b{vni:06x}"

    def overlay_vxlan(self, vni: int) -> str:
        """The VXLAN device of a cluster network."""
        return f"{self.prefix}-v{vni:06x}"

    def veth(self, address: IPv4Address | str) -> str:
        """The host's end of a container's interface on `bridge` or `mesh`."""
        return f"{self.prefix}{int(IPv4Address(address)):08x}"

    def link(self, number: int) -> str:
        """The host's end of a container's interface on a cluster network."""
        return f"{self.prefix}-{number & 0xFFFFFFFF:08x}"

    def is_veth(self, link: str) -> bool:
        """Whether it is the host's end of a container's interface."""
        tail = link.removeprefix(self.prefix)
        return tail != link and re.fullmatch(r"-?[0-9a-f]{8}", tail) is not None

    def vni_of(self, link: str) -> int:
        """The cluster network that a device belongs to; 0 for other links."""
        tail = link.removeprefix(self.prefix)
        found = re.fullmatch(r"-[bv]([0-9a-f]{6})", tail) if tail != link else None
        return int(found[1], 16) if found is not None else 0

    def is_overlay(self, link: str) -> bool:
        """Whether it is a device of a cluster network."""
        return self.vni_of(link) != 0

    def owns(self, link: str) -> bool:
        tunnels = map(self.tunnel, range(SLOTS))
        fixed = (self.local_bridge, self.mesh_bridge, self.vxlan, *tunnels)
        return (
            link in fixed
            or self.is_veth(link)
            or self.is_overlay(link)
            or self.is_user_bridge(link)
        )


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
    """A bridge. Its addresses are its containers' gateways; it may have none.

    `filtered`: frames between its ports pass the host's rules. That is possible only where the
    host has bridge netfilter.
    """

    name: str
    mtu: int
    mac: str
    addresses: tuple[str, ...] = ()
    filtered: bool = False


class Vxlan(msgspec.Struct, frozen=True, kw_only=True):
    """A device to other hosts. A change of anything but the MTU makes it anew.

    `proxy`: it answers for its neighbours itself instead of asking other hosts. `local` is the
    address that it sends from; empty: that of the way it takes.
    """

    name: str
    vni: int
    port: int
    local: str
    mac: str
    mtu: int
    proxy: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A peer's subnet: over the VXLAN device, sent from this host's own gateway address."""

    subnet: str
    via: str
    source: str


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """What a VXLAN device knows instead of asking: address to MAC, MAC to host.

    `bridged`: its bridge is told of the MACs too.
    """

    neighbours: Mapping[str, str]
    forwarding: Mapping[str, str]
    bridged: bool = False


class PortFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What a bridge does at a port."""

    hairpin: bool = False
    learning: bool = True
    flood: bool = True
    isolated: bool = False


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A link on the host and the bridge it belongs to."""

    name: str
    bridge: str
    flags: PortFlags = PortFlags()


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster network with a container here. `mtu` 0 is what the way to other hosts allows.

    `encrypted`: that way is the tunnel.
    """

    vni: int
    underlay: str
    mtu: int
    entries: Entries
    encrypted: bool = False


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the host is like.

    Attributes:
        underlay_mtu: how large packets to peers may be.
        filtered: whether frames between ports of a bridge pass the host's rules by default.
        ipv6: whether the kernel has it.
    """

    underlay_mtu: int = 1500
    filtered: bool = False
    ipv6: bool = True


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All kernel objects of an instance except its rules.

    Attributes:
        entries: of VXLAN devices, by name.
        links: the host's ends of all containers' interfaces, also of those whose network is
            not known now.
    """

    bridges: tuple[Bridge, ...]
    vxlans: tuple[Vxlan, ...] = ()
    routes: tuple[Route, ...] = ()
    entries: Mapping[str, Entries] = {}
    ports: tuple[Port, ...] = ()
    links: Collection[str] = ()


def gateway_of(subnet: str | IPv4Network) -> str:
    """The first usable address of a subnet."""
    return str(IPv4Network(subnet).network_address + 1)


def vxlan_mac(subnet: str) -> str:
    """The VXLAN hardware address of the host that has this subnet."""
    return mac_of(gateway_of(subnet)).replace("02:42:", "02:53:", 1)


def ipv6_of(prefix6: str, address: str) -> str:
    """The IPv6 address in the mesh of what has this IPv4 address."""
    prefix = int(IPv6Network(prefix6).network_address)
    return str(IPv6Address(prefix | int(IPv4Address(address))))


def ipv6_subnet_of(prefix6: str, subnet: str) -> str:
    """The IPv6 subnet in the mesh that goes with an IPv4 one."""
    network = IPv4Network(subnet)
    return f"{ipv6_of(prefix6, str(network.network_address))}/{96 + network.prefixlen}"


def make_plan(
    names: Names,
    local_subnet: IPv4Network,
    mesh: Mesh | None,
    endpoints: Iterable[Endpoint],
    overlays: Mapping[NetworkID, Overlay] | None = None,
    ground: Ground | None = None,
    local: Sequence[LocalNetwork] = (),
) -> Plan:
    """Derive everything; the same input gives the same plan, in the same order."""
    ground, overlays = ground or Ground(), overlays or {}
    bridges, vxlans = [_local_bridge(names, local_subnet)], []
    bridges += [_user_bridge(names, each, ground) for each in local if each.bridged]
    routes: tuple[Route, ...] = ()
    entries: dict[str, Entries] = {}
    port = mesh.udp_port if mesh is not None else DEFAULT_VXLAN_PORT
    if mesh is not None:
        bridge, vxlan = _mesh_devices(names, mesh, ground)
        bridges.append(bridge)
        vxlans.append(vxlan)
        routes = _mesh_routes(mesh, ground)
        entries[vxlan.name] = _mesh_entries(mesh, ground)
    ports = []
    for overlay in sorted(overlays.values(), key=lambda each: each.vni):
        bridge, vxlan = _overlay_devices(names, overlay, port, ground)
        bridges.append(bridge)
        vxlans.append(vxlan)
        entries[vxlan.name] = overlay.entries
        # never learn, never flood; multicast stays on, IPv6's questions to the device need it
        flags = PortFlags(learning=False, flood=False)
        ports.append(Port(name=vxlan.name, bridge=bridge.name, flags=flags))
    vnis = {network: each.vni for network, each in overlays.items()}
    of = shared_ports(names, vnis, local, ground)
    interfaces = [each for endpoint in endpoints for each in endpoint.interfaces]
    ports += [
        container_port(names, each, of, ground)
        for each in sorted(interfaces, key=lambda each: each.link)
        if each.network in (BRIDGE, MESH, *of)
    ]
    return Plan(
        bridges=tuple(bridges),
        vxlans=tuple(vxlans),
        routes=routes,
        entries=entries,
        ports=tuple(ports),
        links=frozenset(each.link for each in interfaces if each.link),
    )


def shared_ports(
    names: Names, vnis: Mapping[NetworkID, int], local: Iterable[LocalNetwork], ground: Ground
) -> Mapping[str, tuple[str, PortFlags]]:
    """Bridge and flags of the containers' ports, by cluster network and user's network."""
    places = {
        str(network): (names.overlay_bridge(vni), PortFlags()) for network, vni in vnis.items()
    }
    for each in local:
        if each.bridged:
            isolated = each.isolated and not ground.filtered
            flags = PortFlags(hairpin=True, isolated=isolated)
            places[each.id] = (names.user_bridge(each.number), flags)
    return places


def container_port(
    names: Names,
    interface: Interface,
    shared: Mapping[str, tuple[str, PortFlags]],
    ground: Ground,
) -> Port:
    """Where the host's end of a container's interface belongs.

    Ports of the gateway network are closed to each other: by the bridge, or where frames pass
    the host's rules, by those, which let through what goes to a published port.
    """
    match interface.network:
        case "bridge":
            bridge, flags = names.local_bridge, PortFlags(hairpin=True)
        case "mesh":
            bridge = names.mesh_bridge
            flags = PortFlags(hairpin=True, isolated=not ground.filtered)
        case network:
            bridge, flags = shared[network]
    return Port(name=interface.link, bridge=bridge, flags=flags)


def _local_bridge(names: Names, subnet: IPv4Network) -> Bridge:
    address = gateway_of(subnet)
    return Bridge(
        name=names.local_bridge,
        mtu=1500,
        mac=mac_of(address),
        addresses=(f"{address}/{subnet.prefixlen}",),
    )


def _user_bridge(names: Names, network: LocalNetwork, ground: Ground) -> Bridge:
    """Its addresses are the gateways, on internal networks too: the host is reached there."""
    addresses = [f"{p.gateway}/{p.network.prefixlen}" for p in network.pools if p.gateway]
    if len(network.pools) > 1:
        addresses.append(LINK_LOCAL)
    return Bridge(
        name=names.user_bridge(network.number),
        mtu=network.mtu,
        mac=mac_of(network.pools[0].gateway),
        addresses=tuple(addresses),
        filtered=network.isolated and ground.filtered,
    )


def _mesh_devices(names: Names, mesh: Mesh, ground: Ground) -> tuple[Bridge, Vxlan]:
    mtu = ground.underlay_mtu - VXLAN_OVERHEAD
    own = IPv4Network(mesh.subnet)
    gateway = gateway_of(own)
    addresses = [f"{gateway}/{own.prefixlen}"]
    if mesh.prefix6 and ground.ipv6:
        addresses.append(f"{ipv6_of(mesh.prefix6, gateway)}/{96 + own.prefixlen}")
        addresses.append(LINK_LOCAL)
    bridge = Bridge(
        name=names.mesh_bridge,
        mtu=mtu,
        mac=mac_of(gateway),
        addresses=tuple(addresses),
        filtered=ground.filtered,
    )
    vxlan = Vxlan(
        name=names.vxlan,
        vni=mesh.vni,
        port=mesh.udp_port,
        local=mesh.underlay,
        mac=vxlan_mac(mesh.subnet),
        mtu=mtu,
    )
    return bridge, vxlan


def _others(mesh: Mesh) -> list[Peer]:
    peers = (each for each in mesh.peers if each.subnet != mesh.subnet)
    return sorted(peers, key=lambda each: each.subnet)


def _mesh_routes(mesh: Mesh, ground: Ground) -> tuple[Route, ...]:
    own = gateway_of(mesh.subnet)
    routes = [
        Route(subnet=peer.subnet, via=gateway_of(peer.subnet), source=own)
        for peer in _others(mesh)
    ]
    if mesh.prefix6 and ground.ipv6:
        routes += [
            Route(
                subnet=ipv6_subnet_of(mesh.prefix6, each.subnet),
                via=ipv6_of(mesh.prefix6, each.via),
                source=ipv6_of(mesh.prefix6, each.source),
            )
            for each in routes
        ]
    return tuple(routes)


def _mesh_entries(mesh: Mesh, ground: Ground) -> Entries:
    neighbours, forwarding = {}, {}
    for peer in _others(mesh):
        gateway, mac = gateway_of(peer.subnet), vxlan_mac(peer.subnet)
        neighbours[gateway] = mac
        if mesh.prefix6 and ground.ipv6:
            neighbours[ipv6_of(mesh.prefix6, gateway)] = mac
        forwarding[mac] = peer.underlay
    return Entries(neighbours=neighbours, forwarding=forwarding)


def _overlay_devices(
    names: Names, overlay: Overlay, port: int, ground: Ground
) -> tuple[Bridge, Vxlan]:
    sealed = overhead(overlay.underlay) if overlay.encrypted else 0
    mtu = overlay.mtu or ground.underlay_mtu - sealed - VXLAN_OVERHEAD
    number = f"{overlay.vni:06x}"
    tail = f"{number[:2]}:{number[2:4]}:{number[4:]}"
    # neither address is ever seen by a container: the host has no part in the network
    bridge = Bridge(name=names.overlay_bridge(overlay.vni), mtu=mtu, mac=f"02:54:00:{tail}")
    vxlan = Vxlan(
        name=names.overlay_vxlan(overlay.vni),
        vni=overlay.vni,
        port=port,
        local="" if overlay.encrypted else overlay.underlay,
        mac=f"02:55:00:{tail}",
        mtu=mtu,
        proxy=True,
    )
    return bridge, vxlan


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
        if mesh.prefix6 and IPv6Network(mesh.prefix6).prefixlen != 96:
            raise InvalidArgument(f"mesh: {mesh.prefix6} must be a /96", field="mesh")
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
