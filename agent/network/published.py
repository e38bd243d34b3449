"""What each published port adds to the table: of containers on this host, of the cluster.

Pure. A `Port` is made once and kept as long as it stays the same, so that a change of one costs
nothing for the others. `nftables` makes the table of them.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

import msgspec

from agent.network.desired import (
    ANY_ADDRESS,
    ANY_ADDRESS6,
    Endpoint,
    IngressPort,
    Mesh,
    PortBinding,
)
from agent.network.plan import ipv6_of

Element = tuple[str, str, str]
"""A set or map, the key, and the value (empty in a set)."""
Target = tuple[str, int]


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A published port.

    Attributes:
        key: unique among all of the host.
        number: of the port, where clients ask.
        picks: the chains it leads to: address family and number of backends.
        udp_targets: of a UDP port: where its flows may go.
        relayed: of a port on some addresses only: where those go that no rule leads.
    """

    key: str
    number: int
    elements: tuple[Element, ...]
    picks: frozenset[tuple[int, int]] = frozenset()
    udp_targets: frozenset[Target] | None = None
    relayed: Target | None = None


class Mesher:
    """Ports of the cluster as one host's place in the mesh has them."""

    def __init__(self, mesh: Mesh | None) -> None:
        subnets = [] if mesh is None else [mesh.subnet, *(peer.subnet for peer in mesh.peers)]
        self._prefix6 = mesh.prefix6 if mesh is not None else ""
        self._own = IPv4Network(mesh.subnet) if mesh is not None else None
        self._by_mask: dict[int, set[int]] = {}
        for subnet in map(IPv4Network, subnets):
            networks = self._by_mask.setdefault(int(subnet.netmask), set())
            networks.add(int(subnet.network_address))

    def port(self, entry: IngressPort) -> Port:
        """Leads to the host's own tasks, else to others', else refuses."""
        four = sorted(self._chosen(entry))
        six = [(ipv6_of(self._prefix6, a), port) for a, port in four] if self._prefix6 else []
        protocol, number = entry.protocol, entry.published_port
        return Port(
            key=f"{protocol} . {number}",
            number=number,
            elements=(
                *_spread(protocol, number, four),
                *_spread(protocol, number, six),
                *((("refused", f"{protocol} . {number}", ""),) if not four else ()),
            ),
            picks=_picks(four, six),
            udp_targets=frozenset((*four, *six)) if protocol == "udp" else None,
        )

    def _chosen(self, entry: IngressPort) -> set[Target]:
        own, others = set(), set()
        for backend in entry.backends:
            address = IPv4Address(backend.address)
            if self._own is not None and address in self._own:
                own.add((backend.address, backend.port))
            elif not entry.local_only and self._reaches(int(address)):
                others.add((backend.address, backend.port))
        return own or others

    def _reaches(self, address: int) -> bool:
        """Whether there is a route: a packet to any other would leave by the uplink."""
        return any(address & mask in networks for mask, networks in self._by_mask.items())


def container_ports(endpoints: Iterable[Endpoint]) -> Iterator[Port]:
    """Those that containers on this host publish for themselves."""
    for endpoint in endpoints:
        for binding in endpoint.ports:
            yield _container_port(endpoint, binding)


def _container_port(endpoint: Endpoint, binding: PortBinding) -> Port:
    protocol, number = binding.protocol, binding.host_port
    port = binding.container_port
    of = {4: endpoint.outward.ipv4, 6: endpoint.outward.ipv6}
    families = [f for f in binding.families if of[f]]
    targets = [(of[f], port) for f in families]
    anyhow = [(of[f], port) for f in (*binding.families, 4) if of[f]]
    elements: list[Element] = []
    if binding.host_ip in (ANY_ADDRESS, ANY_ADDRESS6):
        key = f"{protocol} . {number}"
        for target in targets:
            elements += _spread(protocol, number, [target])
        picks = frozenset((f, 1) for f in families)
    else:
        key = f"{binding.host_ip} . {protocol} . {number}"
        elements = [(f"bound{f}", key, f"{of[f]} . {port}") for f in families]
        picks = frozenset()
    return Port(
        key=key if binding.host_ip != ANY_ADDRESS6 else f":: . {key}",
        number=number,
        elements=tuple(elements),
        picks=picks,
        udp_targets=frozenset(targets) if protocol == "udp" else None,
        relayed=anyhow[0] if anyhow and binding.host_ip != ANY_ADDRESS else None,
    )


def _spread(protocol: str, number: int, targets: list[Target]) -> Iterator[Element]:
    """Elements that lead a port to targets of one address family."""
    if not targets:
        return
    family = 6 if ":" in targets[0][0] else 4
    yield f"ports{family}", f"{protocol} . {number}", f"goto pick{family}_{len(targets)}"
    for index, (address, port) in enumerate(targets):
        key = f"{index} . {protocol} . {number}"
        yield f"targets{family}", key, f"{address} . {port}"


def _picks(four: list[Target], six: list[Target]) -> frozenset[tuple[int, int]]:
    return frozenset((f, len(t)) for f, t in ((4, four), (6, six)) if t)
