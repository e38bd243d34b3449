"""The zone of a network: put together out of the names of its services. Pure.

The names that a service and its endpoints give are made once and kept by the caller while
neither changes: a zone of 1,000 endpoints is put together in a fraction of the time that it
takes to make all of its names. `views` calls it.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Protocol

import msgspec

from agent.network import dns
from agent.network.balancing import packed
from agent.network.names import Zone
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService

Addresses = tuple[bytes, ...]


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


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What one service with its endpoints, or some containers, bring into a zone.

    Attributes:
        services: addresses by name, of the service itself.
        hosts: of each container's name the addresses of those that serve, and of all.
        pointers: the full name of each address.
        ports: named ports.
    """

    services: Mapping[str, Addresses] = {}
    hosts: Mapping[str, tuple[Addresses, Addresses]] = {}
    pointers: Mapping[bytes, str] = {}
    ports: Mapping[str, tuple[dns.Service, ...]] = {}


def names_of(
    network: str, service: NetworkService | None, endpoints: Sequence[NetworkEndpoint]
) -> Names:
    """Of a service and its endpoints; endpoints may be left of one that is gone."""
    hosts = _names_of_hosts(network, endpoints)
    if service is None:
        return hosts
    serving = [each for each in endpoints if each.serving]
    tasks = tuple(packed(a) for endpoint in serving for a in endpoint.addresses)
    virtual = tuple(packed(a) for a in service.virtual_ips)
    names: dict[str, Addresses] = {}
    for name in (service.name, *service.aliases):
        names.setdefault(name.lower(), virtual or tasks)
        names.setdefault(f"tasks.{name.lower()}", tasks)
    full = f"{service.name}.{network}"
    own = dict.fromkeys(virtual, full) if dns.is_name(full) else {}
    return Names(
        services=names,
        hosts=hosts.hosts,
        pointers={**own, **hosts.pointers},
        ports=_named_ports(network, service, serving),
    )


def local_zone(network: str, hosts: Iterable[Host], subnets: Iterable[str] = ()) -> Zone:
    """The zone of a network that exists on this host alone."""
    return _joined(network, (_names_of_hosts(network, hosts),), subnets)


def cluster_zone(network: AssignedNetwork, parts: Sequence[Names]) -> Zone:
    """The zone of a cluster network; of two services with one name the first has it."""
    return _joined(network.name, parts, (each.subnet for each in network.subnets))


def _joined(network: str, parts: Sequence[Names], subnets: Iterable[str]) -> Zone:
    """A service's name comes before containers' own.

    Of several containers with one name those have it that serve, if any does.
    """
    hosts: dict[str, tuple[Addresses, Addresses]] = {}
    pointers: dict[bytes, str] = {}
    ports: dict[str, tuple[dns.Service, ...]] = {}
    for part in parts:
        pointers.update(part.pointers)
        ports.update(part.ports)
        for name, (serving, everyone) in part.hosts.items():
            if name in hosts:
                others = hosts[name]
                hosts[name] = (others[0] + serving, others[1] + everyone)
            else:
                hosts[name] = (serving, everyone)
    names = {name: serving or everyone for name, (serving, everyone) in hosts.items()}
    for part in reversed(parts):
        names.update(part.services)
    return Zone(
        network=network.lower(),
        names=names,
        pointers=pointers,
        ports=ports,
        subnets=_prefixes(subnets),
    )


def _names_of_hosts(network: str, hosts: Iterable[_Named]) -> Names:
    found: dict[str, tuple[Addresses, Addresses]] = {}
    pointers: dict[bytes, str] = {}
    for host in hosts:
        addresses = tuple(packed(each) for each in host.addresses)
        serving = addresses if host.serving else ()
        for name in dict.fromkeys(each.lower() for each in host.names):
            before = found.get(name, ((), ()))
            found[name] = (before[0] + serving, before[1] + addresses)
        full = f"{host.names[0]}.{network}" if host.names else ""
        if dns.is_name(full):
            pointers.update(dict.fromkeys(addresses, full))
    return Names(hosts=found, pointers=pointers)


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


def _prefixes(subnets: Iterable[str]) -> tuple[tuple[bytes, int], ...]:
    networks = [ip_network(each, strict=False) for each in subnets if each]
    return tuple((each.network_address.packed, each.prefixlen) for each in networks)
