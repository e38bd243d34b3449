"""The rules of a network's spec. Pure; what spans networks is `manager.control.networks`'s."""

import re
from ipaddress import IPv6Network, ip_address

from shoal.model.addresses import AnyNetwork, network_of
from shoal.model.errors import NotFound, PermissionDenied
from shoal.model.numbers import within
from shoal.model.spec.network import (
    ENCRYPTED,
    IPAM,
    MTU,
    VXLAN_IDS,
    IPAMConfig,
    NetworkSpec,
)
from shoal.model.validate.limits import check_limits
from shoal.model.validate.refusal import OF_CLUSTER, invalid, unimplemented
from shoal.model.validate.settings import check_label_names

PREDEFINED = frozenset({"bridge", "host", "none", "default", "docker_gwbridge"})
FIRST_VNI = 4096
LAST_VNI = (1 << 24) - 1
LEAST_MTU = {4: 68, 6: 1280}
MOST_MTU = 65535
LEAST_PREFIX = {4: 8, 6: 32}
MOST_PREFIX = {4: 30, 6: 120}
MOST_PREFIX_OF_INGRESS = 20
NAME_LENGTH = 200
_NAME = re.compile(r"[a-zA-Z0-9](?:[-_.]*[A-Za-z0-9]+)*", re.ASCII)
_OTHER_DRIVERS = ("bridge", "host", "macvlan", "ipvlan", "null")
_OPTIONS = (ENCRYPTED, MTU, VXLAN_IDS)


def check_network(spec: NetworkSpec) -> None:
    """Refuse a network that this cluster could not make."""
    check_limits(spec)
    check_name(spec.name)
    _check_kind(spec)
    check_label_names(spec.labels, "Labels", OF_CLUSTER)
    if spec.enable_ipv4 is False:
        raise unimplemented("EnableIPv4", "cluster networks without IPv4 are not supported")
    _check_options(spec)
    check_ipam(spec.ipam, ipv6=spec.enable_ipv6)
    if spec.ingress:
        _check_ingress(spec)


def check_name(name: str) -> None:
    """Refuse what is not a name for a network, or one that is always there."""
    if not name:
        raise invalid("Name", "a name must be given")
    if name in PREDEFINED:
        raise PermissionDenied(f"operation is not permitted on predefined {name} network")
    if len(name) > NAME_LENGTH:
        raise invalid("Name", f"must be {NAME_LENGTH} characters or fewer, not {len(name)}")
    if not _NAME.fullmatch(name):
        raise invalid(
            "Name",
            f"{name!r} is not valid as a network's name: letters, digits, '-', '_' and '.',"
            " beginning and ending with a letter or digit",
        )


def _check_kind(spec: NetworkSpec) -> None:
    if spec.scope not in ("", "swarm"):
        raise invalid("Scope", f"{spec.scope!r} is not swarm, the scope of cluster networks")
    if spec.config_only or spec.config_from.network:
        raise unimplemented(
            "ConfigOnly" if spec.config_only else "ConfigFrom",
            "cluster networks cannot be made of a configuration; give the options themselves",
        )
    if spec.driver in _OTHER_DRIVERS:
        raise unimplemented(
            "Driver",
            f"{spec.driver} networks with scope swarm are not supported; use overlay, or make"
            " the network on each host",
        )
    if spec.driver not in ("", "overlay"):
        raise NotFound(f'plugin "{spec.driver}" not found: cluster networks are overlay')


def _check_options(spec: NetworkSpec) -> None:
    for name, value in spec.options.items():
        path = f"Options.{name}"
        if name == ENCRYPTED and value not in ("", "true", "1", "false", "0"):
            raise invalid(path, f"{value!r} is neither true nor false")
        if name == MTU:
            least = LEAST_MTU[6 if spec.enable_ipv6 else 4]
            check_number(value, path, least, MOST_MTU)
        if name == VXLAN_IDS:
            check_number(value, path, FIRST_VNI, LAST_VNI)
        if name not in _OPTIONS:
            raise invalid(path, f"overlay networks know only {', '.join(_OPTIONS)}")


def check_number(value: str, path: str, least: int, most: int) -> None:
    """Refuse an option that is no number from `least` to `most`."""
    if within(value, least, most) is None:
        raise invalid(path, f"must be a number from {least} to {most}, not {value!r}")


def check_ipam(ipam: IPAM, *, ipv6: bool) -> None:
    """Refuse subnets and addresses that no network could have."""
    if ipam.driver not in ("", "default"):
        raise unimplemented(
            "IPAM.Driver", f"address management by {ipam.driver!r} is not supported"
        )
    if ipam.options:
        raise invalid("IPAM.Options", f"there is no option {next(iter(ipam.options))!r}")
    seen: set[int] = set()
    for position, config in enumerate(ipam.config):
        path = f"IPAM.Config[{position}]"
        network = _check_config(config, path)
        if network is None:
            continue
        if network.version == 6 and not ipv6:
            raise invalid(f"{path}.Subnet", f"{config.subnet} needs EnableIPv6")
        if network.version in seen:
            raise invalid(
                f"{path}.Subnet",
                f"{config.subnet}: a network has one IPv{network.version} subnet",
            )
        seen.add(network.version)


def _check_config(config: IPAMConfig, path: str) -> AnyNetwork | None:
    if not config.subnet:
        if config.gateway or config.ip_range or config.auxiliary_addresses:
            raise invalid(
                f"{path}.Subnet", "must be given where there are addresses of the network"
            )
        return None
    network = parse_subnet(config.subnet, f"{path}.Subnet")
    if config.ip_range:
        inner = parse_subnet(config.ip_range, f"{path}.IPRange", least=0)
        if inner.version != network.version or not _within(inner, network):
            raise invalid(f"{path}.IPRange", f"{config.ip_range} is not within {network}")
    held: dict[str, str] = {}
    if config.gateway:
        _check_address(config.gateway, network, f"{path}.Gateway")
        held[config.gateway] = "the gateway"
    for name, address in config.auxiliary_addresses.items():
        below = f"{path}.AuxiliaryAddresses.{name}"
        _check_address(address, network, below)
        if address in held:
            raise invalid(below, f"{address} is {held[address]} already")
        held[address] = name
    return network


def parse_subnet(text: str, path: str, least: int | None = None) -> AnyNetwork:
    """A subnet in its own spelling, of a size that is of use, that hosts may have."""
    try:
        network = network_of(text)
    except ValueError as error:
        raise invalid(path, f"invalid subnet {text}{_corrected(text)}") from error
    shortest = LEAST_PREFIX[network.version] if least is None else least
    longest = MOST_PREFIX[network.version] if least is None else network.max_prefixlen
    if not shortest <= network.prefixlen <= longest:
        raise invalid(path, f"{text}: the prefix must be from /{shortest} to /{longest}")
    if network.is_multicast or network.is_loopback or network.is_link_local:
        raise invalid(path, f"{text} is not for hosts of a network")
    if isinstance(network, IPv6Network) and network.overlaps(IPv6Network("::/96")):
        raise invalid(path, f"{text} is not for hosts of a network")
    return network


def _corrected(text: str) -> str:
    try:
        inside = ip_address(text.partition("/")[0])
        length = int(text.partition("/")[2])
        number = int(inside) >> (inside.max_prefixlen - length) << inside.max_prefixlen - length
        return f": it should be {type(inside)(number)}/{length}"
    except ValueError:
        return ": an address and a prefix length, like 10.1.0.0/24, are needed"


def _within(inner: AnyNetwork, outer: AnyNetwork) -> bool:
    return outer.network_address <= inner.network_address and (  # type: ignore[operator]
        inner.broadcast_address <= outer.broadcast_address  # type: ignore[operator]
    )


def _check_address(text: str, network: AnyNetwork, path: str) -> None:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise invalid(path, f"{text!r} is not an address") from error
    if address not in network:
        raise invalid(path, f"{text} is not within {network}")
    if address in (network.network_address, network.broadcast_address) and (
        network.version == 4 or address == network.network_address
    ):
        raise invalid(path, f"{text} is not an address of a host in {network}")


def _check_ingress(spec: NetworkSpec) -> None:
    if spec.attachable:
        raise invalid("Attachable", "the ingress network cannot be attachable")
    if spec.internal:
        raise invalid("Internal", "the ingress network cannot be internal")
    if spec.enable_ipv6:
        raise unimplemented("EnableIPv6", "the ingress network has IPv4 subnets alone")
    if spec.options:
        name = next(iter(spec.options))
        raise unimplemented(f"Options.{name}", "the ingress network takes no options")
    for position, config in enumerate(spec.ipam.config):
        path = f"IPAM.Config[{position}]"
        if config.subnet and network_of(config.subnet).prefixlen > MOST_PREFIX_OF_INGRESS:
            raise invalid(
                f"{path}.Subnet",
                f"{config.subnet}: each node gets a /24 of it, so at most"
                f" /{MOST_PREFIX_OF_INGRESS} is of use",
            )
        if config.gateway or config.ip_range or config.auxiliary_addresses:
            raise invalid(path, "the ingress network takes a subnet and nothing else")
