"""Subnets of a user's network on this host: those asked for, or free ones. Pure.

The same host gives the same network the same subnet: candidates are tried in their order, and
the IPv6 subnet follows from the network's name.
"""

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from agent.network.local import Pool
from shoal.model.errors import PermissionDenied, ResourceExhausted
from shoal.model.spec.network import IPAMConfig, NetworkSpec

AnyNetwork = IPv4Network | IPv6Network

_LARGE = tuple(IPv4Network(f"172.{number}.0.0/16") for number in range(17, 32))
_SMALL = tuple(IPv4Network("192.168.0.0/16").subnets(new_prefix=20))


def pools_of(
    spec: NetworkSpec, seed: str, others: Iterable[str], on_host: Iterable[str]
) -> tuple[Pool, ...]:
    """The subnets of a new network, IPv4 first.

    Args:
        spec: what is asked for; it has been checked.
        seed: makes the IPv6 subnet, where none is asked for.
        others: subnets of other networks, of this host and of the cluster.
        on_host: where the host has addresses, or routes to. A macvlan or ipvlan network may
            lie there: it is its parent's.

    Raises:
        PermissionDenied: a subnet that is asked for is another's.
        ResourceExhausted: none is free.
    """
    taken = list(others)
    if spec.driver in ("", "bridge"):
        taken += on_host
    found = [ip_network(each, strict=False) for each in taken]
    pools = [_asked(each, found) for each in spec.ipam.config if each.subnet]
    versions = {each.network.version for each in pools}
    if 4 not in versions:
        pools.append(_pool(_free(found), IPAMConfig()))
    if spec.enable_ipv6 and 6 not in versions:
        pools.append(_pool(_derived(seed), IPAMConfig()))
    return tuple(sorted(pools, key=lambda each: each.network.version))


def _asked(config: IPAMConfig, taken: Iterable[AnyNetwork]) -> Pool:
    subnet = ip_network(config.subnet)
    for other in taken:
        if other.version == subnet.version and subnet.overlaps(other):
            raise PermissionDenied(
                "invalid pool request: Pool overlaps with other one on this address space:"
                f" IPAM.Config.Subnet {subnet} overlaps with {other} on this host"
            )
    return _pool(subnet, config)


def _pool(subnet: AnyNetwork, config: IPAMConfig) -> Pool:
    reserved = tuple(config.auxiliary_addresses.values())
    gateway = config.gateway or next(
        str(each) for each in _hosts(subnet) if str(each) not in reserved
    )
    return Pool(
        subnet=str(subnet),
        gateway=str(ip_address(gateway)),
        within=config.ip_range,
        reserved=tuple(str(ip_address(each)) for each in reserved),
    )


def _hosts(subnet: AnyNetwork) -> Iterator[object]:
    return (subnet.network_address + number for number in range(1, subnet.num_addresses))


def _free(taken: list[AnyNetwork]) -> IPv4Network:
    for candidate in (*_LARGE, *_SMALL):
        if not any(each.version == 4 and candidate.overlaps(each) for each in taken):
            return candidate
    raise ResourceExhausted(
        "all predefined address pools have been fully subnetted: give the network a subnet of"
        " its own (--subnet)"
    )


def _derived(seed: str) -> IPv6Network:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big")
    return IPv6Network((0xFD << 120 | number << 64, 64))
