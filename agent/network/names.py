"""What a container's names mean: zones of networks, and the answer to one query. Pure.

A zone is one network's names, made once for all its containers. A container asks the networks
it is on, in its order: the first one in which the name has an address, of whichever family,
answers (as Docker does; two networks' answers are never mixed). `name` and `name.network` are
the same. A name that is known is never forwarded: what it does not have is an answer without
records. A name below a search domain is not taken for ours: `db.example.com` may exist, and a
stub resolver asks for the bare `db` first (`ndots:0`) or next.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Protocol

import msgspec

from agent.network import dns
from agent.network.balancing import packed
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService

Shuffle = Callable[[list[bytes]], None]


class Host(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A container on a network of one host only: its names, first its own, and addresses."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    serving: bool = True


class _Named(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...
    @property
    def serving(self) -> bool: ...


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """The names of one network, all in lower case.

    Attributes:
        names: addresses of both families by name.
        pointers: the full name of each address.
        ports: named ports by `_port._protocol.service`.
        subnets: beginning and prefix length; what is in them is never asked of others.
    """

    network: str
    names: Mapping[str, tuple[bytes, ...]]
    pointers: Mapping[bytes, str]
    ports: Mapping[str, tuple[dns.Service, ...]] = {}
    subnets: tuple[tuple[bytes, int], ...] = ()

    def own(self, name: str) -> Iterator[str]:
        """The forms of a name to look for."""
        yield name
        if name.endswith(self.network) and name[-len(self.network) - 1 :].startswith("."):
            yield name[: -len(self.network) - 1]


def local_zone(network: str, hosts: Iterable[Host], subnets: Iterable[str] = ()) -> Zone:
    """The zone of a network that exists on this host alone."""
    names: dict[str, tuple[bytes, ...]] = {}
    pointers: dict[bytes, str] = {}
    _add_hosts(network, list(hosts), names, pointers)
    return Zone(
        network=network.lower(), names=names, pointers=pointers, subnets=_prefixes(subnets)
    )


def cluster_zone(
    network: AssignedNetwork,
    services: Iterable[NetworkService],
    endpoints: Mapping[str, Sequence[NetworkEndpoint]],
) -> Zone:
    """The zone of a cluster network; `endpoints` are its endpoints by service id."""
    names: dict[str, tuple[bytes, ...]] = {}
    pointers: dict[bytes, str] = {}
    ports: dict[str, tuple[dns.Service, ...]] = {}
    for service in services:
        serving = [e for e in endpoints.get(service.service_id, ()) if e.serving]
        tasks = tuple(packed(a) for endpoint in serving for a in endpoint.addresses)
        virtual = tuple(packed(a) for a in service.virtual_ips)
        for name in (service.name, *service.aliases):
            names.setdefault(name.lower(), virtual or tasks)
            names.setdefault(f"tasks.{name.lower()}", tasks)
        full = f"{service.name}.{network.name}"
        if dns.is_name(full):
            pointers |= dict.fromkeys(virtual, full)
        ports |= _named_ports(network.name, service, serving)
    everyone = [endpoint for group in endpoints.values() for endpoint in group]
    _add_hosts(network.name, everyone, names, pointers)
    return Zone(
        network=network.name.lower(),
        names=names,
        pointers=pointers,
        ports=ports,
        subnets=_prefixes(each.subnet for each in network.subnets),
    )


def _named_ports(
    network: str, service: NetworkService, serving: Sequence[NetworkEndpoint]
) -> dict[str, tuple[dns.Service, ...]]:
    found: dict[str, tuple[dns.Service, ...]] = {}
    for port in service.ports:
        if not port.name or not dns.is_name(f"{service.name}.{network}"):
            continue
        tasks = tuple(
            _service(port.target_port, f"{each.names[0]}.{network}", each.addresses)
            for each in serving
            if each.names and dns.is_name(f"{each.names[0]}.{network}")
        )
        own = _service(port.target_port, f"{service.name}.{network}", service.virtual_ips)
        prefix = f"_{port.name}._{port.protocol or 'tcp'}."
        for name in (service.name, *service.aliases):
            found[f"{prefix}{name}".lower()] = (own,) if service.virtual_ips else tasks
            found[f"{prefix}tasks.{name}".lower()] = tasks
    return found


def _service(port: int, target: str, found: Iterable[str]) -> dns.Service:
    return dns.Service(port, target, tuple(packed(each) for each in found))


def _add_hosts(
    network: str,
    hosts: Sequence[_Named],
    names: dict[str, tuple[bytes, ...]],
    pointers: dict[bytes, str],
) -> None:
    """Containers' own names: of several with one name those that serve, if any does.

    A service's name comes first.
    """
    by_name: dict[str, list[_Named]] = {}
    for host in hosts:
        for name in dict.fromkeys(each.lower() for each in host.names):
            by_name.setdefault(name, []).append(host)
        full = f"{host.names[0]}.{network}" if host.names else ""
        for address in host.addresses:
            if dns.is_name(full):
                pointers[packed(address)] = full
    for name, group in by_name.items():
        chosen = [each for each in group if each.serving] or group
        found = tuple(packed(address) for host in chosen for address in host.addresses)
        names.setdefault(name, found)


def _prefixes(subnets: Iterable[str]) -> tuple[tuple[bytes, int], ...]:
    networks = [ip_network(each, strict=False) for each in subnets if each]
    return tuple((each.network_address.packed, each.prefixlen) for each in networks)


def answer(
    query: dns.Query, identity: bytes, zones: Sequence[Zone], shuffle: Shuffle, most: int
) -> bytes | None:
    """The answer to a query under an id; None if it is not ours to answer.

    Args:
        query: the query.
        identity: the two bytes of its id.
        zones: of the asker's networks, in its order.
        shuffle: brings several addresses into an order of chance.
        most: bytes that the answer may have.
    """
    if dns.opcode(query):
        return dns.failure(query, identity, dns.NOT_IMPLEMENTED)
    if query.version:
        return dns.bad_version(query, identity)
    if query.kind not in (dns.IN, dns.ANY):
        return None
    if query.type == dns.PTR and query.name.endswith(".arpa"):
        return _answer_pointer(query, identity, zones, most)
    known = False
    for zone in zones:
        for name in zone.own(query.name):
            ports, found = zone.ports.get(name), zone.names.get(name)
            known = known or ports is not None or found is not None
            if ports and query.type == dns.SRV:
                return dns.services(query, identity, ports, most)
            if found:
                chosen = _of_type(found, query.type)
                shuffle(chosen)
                return dns.addresses(query, identity, chosen, most)
    return dns.addresses(query, identity, (), most) if known else None


def _of_type(found: Sequence[bytes], kind: int) -> list[bytes]:
    if kind == dns.A:
        return [each for each in found if len(each) == 4]
    if kind == dns.AAAA:
        return [each for each in found if len(each) == 16]
    return list(found) if kind == dns.ANY else []


def _answer_pointer(
    query: dns.Query, identity: bytes, zones: Sequence[Zone], most: int
) -> bytes | None:
    address = dns.address_of(query.name)
    if address is None:
        return None
    for zone in zones:
        if (target := zone.pointers.get(address)) is not None:
            return dns.pointer(query, identity, target, most)
    for zone in zones:
        if any(_within(address, *subnet) for subnet in zone.subnets):
            return dns.failure(query, identity, dns.NO_NAME)
    return None


def _within(address: bytes, start: bytes, prefix: int) -> bool:
    if len(address) != len(start):
        return False
    shift = 8 * len(start) - prefix
    return int.from_bytes(address) >> shift == int.from_bytes(start) >> shift
