"""Addresses as numbers and text, and the MAC that follows from one. Pure."""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

AnyNetwork = IPv4Network | IPv6Network


def bare(address: str) -> str:
    """An address without its prefix length.

    >>> bare("10.0.1.5/24"), bare("fd00::5")
    ('10.0.1.5', 'fd00::5')
    """
    return address.partition("/")[0]


def number_of(address: str) -> int:
    """An address, with or without prefix length, as a number.

    Those of the two families never meet: no network may lie in `::/96`.
    """
    return int(ip_address(bare(address)))


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def text_of(number: int, family: int) -> str:
    """The address of a number."""
    return str(IPv4Address(number) if family == 4 else IPv6Address(number))


def network_of(text: str) -> AnyNetwork:
    """The network of a subnet; host bits must not be set."""
    return ip_network(text)


def mac_of(address: str) -> str:
    """The MAC of an endpoint: `02:42:` and the last four bytes of its address, as Docker's.

    >>> mac_of("10.0.1.5/24")
    '02:42:0a:00:01:05'
    """
    tail = ip_address(bare(address)).packed[-4:]
    return "02:42:" + ":".join(f"{byte:02x}" for byte in tail)


def mac_of_endpoint(addresses: tuple[str, ...]) -> str:
    """The MAC of an endpoint: of its IPv4 address where it has one."""
    if not addresses:
        return ""
    four = [address for address in addresses if family_of(address) == 4]
    return mac_of((four or list(addresses))[0])
