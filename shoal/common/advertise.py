"""Where a host was told to be found when it entered its cluster, kept on disk.

`docker swarm init --advertise-addr --listen-addr` may name another address and another port
than the host would have chosen; from then on every program of the host uses them, until the
host leaves.
"""

import fcntl
import ipaddress
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shoal.common.config import HostConfig
from shoal.common.join_wire import DEFAULT_MANAGER_PORT, split_address
from shoal.model.errors import InvalidArgument

_FILE = "advertise.json"
DEFAULT_LISTEN = "0.0.0.0:2377"
"""What Docker's clients send where nobody gave an address: all, and the host's own port."""
_LAST_PORT = 65535
_INSIDE = ("docker", "br-", "veth", "virbr", "podman", "cni", "lxc")


class Advertised(msgspec.Struct, frozen=True, kw_only=True):
    """As chosen at init or join; empty or 0: the host's own setting."""

    address: str = ""
    data_path_address: str = ""
    port: int = 0
    listen_address: str = ""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request to init or join says of it; `towards` is the manager to join."""

    listen: str = ""
    advertise: str = ""
    data_path: str = ""
    towards: str = ""


def advertised(config: HostConfig) -> HostConfig:
    """The host's configuration with the addresses it entered its cluster with."""
    try:
        chosen = msgspec.json.decode(_path(config).read_bytes(), type=Advertised)
    except FileNotFoundError:
        return config
    return _with(config, chosen)


def _with(config: HostConfig, chosen: Advertised) -> HostConfig:
    port = chosen.port or config.port
    return msgspec.structs.replace(
        config,
        address=chosen.address or config.address,
        data_path_address=chosen.data_path_address or config.data_path_address,
        listen_address=chosen.listen_address or config.listen_address,
        port=port,
        join_port=port + 1 if chosen.port else config.join_port,
    )


class Interface(msgspec.Struct, frozen=True):
    """An interface of this host that is up, and its addresses that others can reach."""

    name: str
    addresses: tuple[str, ...]


def choose(config: HostConfig, wanted: Wanted) -> HostConfig:
    """Check the addresses of a request, keep them, and return the configuration with them.

    Without an address, a host that was given none at its start takes the one towards the
    manager that it joins, or its only one; two are too many, as Swarm has it.
    """
    chosen = _chosen(config, wanted)
    path = _path(config)
    fresh = path.with_name(_FILE + ".new")
    fresh.write_bytes(msgspec.json.encode(chosen))
    fresh.replace(path)
    return _with(config, chosen)


def _chosen(config: HostConfig, wanted: Wanted) -> Advertised:
    listen, port = _listened(config, wanted.listen)
    advertise = wanted.advertise or listen
    if not advertise and config.address_guessed:
        advertise = (
            _towards(wanted.towards)
            if wanted.towards
            else only_one(interfaces(config.instance))
        )
    address = _local(advertise, "AdvertiseAddr", port or config.port)
    if listen not in ("", address):
        raise InvalidArgument(
            f"ListenAddr: a manager listens where it is advertised ({address}) or on all "
            f"addresses (0.0.0.0), not on {listen} alone",
            field="ListenAddr",
        )
    return Advertised(
        address=address,
        data_path_address=_local(wanted.data_path, "DataPathAddr", 0),
        port=port,
        listen_address=listen,
    )


def _listened(config: HostConfig, text: str) -> tuple[str, int]:
    """Address ("" is all) and port (0 is the host's own) of `ListenAddr`.

    Every client sends Docker's default, which therefore means the host's own port too.
    """
    host, port = split_address(text or DEFAULT_LISTEN, DEFAULT_MANAGER_PORT, "ListenAddr")
    if port in (DEFAULT_MANAGER_PORT, config.port):
        port = 0
    taken = {config.etcd_port: "etcd_port", config.agent_port: "agent_port"}
    for number in (port, port + 1) if port else ():
        if number in taken or number > _LAST_PORT:
            raise InvalidArgument(
                f"ListenAddr: port {port} and the next one, for joining hosts, must be free: "
                f"{number} is "
                + (f"the host's {taken[number]}" if number in taken else "none"),
                field="ListenAddr",
            )
    return "" if host in ("0.0.0.0", "::") else _local(host, "ListenAddr", 0), port  # noqa: S104


def forget(config: HostConfig) -> None:
    """The host has left its cluster."""
    _path(config).unlink(missing_ok=True)


def only_one(found: Sequence[Interface]) -> str:
    """The only address there is; InvalidArgument with Swarm's sentences otherwise."""
    for each in found:
        if len(each.addresses) > 1:
            raise InvalidArgument(
                f"could not choose an IP address to advertise since this system has multiple "
                f"addresses on interface {each.name} ({each.addresses[0]} and "
                f"{each.addresses[1]})",
                field="AdvertiseAddr",
            )
    if len(found) > 1:
        one, other = found[:2]
        raise InvalidArgument(
            f"could not choose an IP address to advertise since this system has multiple "
            f"addresses on different interfaces ({one.addresses[0]} on {one.name} and "
            f"{other.addresses[0]} on {other.name})",
            field="AdvertiseAddr",
        )
    if not found:
        raise InvalidArgument(
            "could not find the system's IP address",
            field="AdvertiseAddr",
        )
    return found[0].addresses[0]


def interfaces(instance: str) -> list[Interface]:
    """Those of this host that are up and lead to other hosts."""
    listed = subprocess.run(
        ["ip", "-json", "address", "show", "up", "scope", "global"],
        capture_output=True,
        check=True,
    ).stdout
    return read_interfaces(listed, instance)


def read_interfaces(listed: bytes, instance: str) -> list[Interface]:
    """Out of what `ip -json` prints: IPv4 addresses, IPv6 where there is no other.

    Bridges and cables of containers, Shoal's and others', lead to this host only.
    """
    found = []
    for link in msgspec.json.decode(listed or b"[]"):
        name = link.get("ifname", "")
        if not name or name.startswith((instance, *_INSIDE)):
            continue
        addresses = [
            (info["family"], info["local"])
            for info in link["addr_info"]
            if "local" in info and not info.get("deprecated") and not info.get("temporary")
        ]
        best = [a for f, a in addresses if f == "inet"] or [a for _, a in addresses]
        if best:
            found.append(Interface(name, tuple(best)))
    return found


def _towards(manager: str) -> str:
    """The address from which this host speaks to a manager; no packet is sent."""
    host, port = split_address(manager, DEFAULT_MANAGER_PORT)
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise InvalidArgument(
            f"RemoteAddrs: there is no way from this host to {manager}: {error.strerror}",
            field="RemoteAddrs",
        ) from error


def _path(config: HostConfig) -> Path:
    return Path(config.state) / _FILE


def _local(text: str, field: str, port: int) -> str:
    """The address of this host that `address`, `address:port` or an interface name means."""
    if not text:
        return ""
    address = _without_port(text, field, port)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        address = _of_interface(address, field)
    try:
        with socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        ) as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise InvalidArgument(
            f"{field}: {address} is not an address of this host", field=field
        ) from error
    return address


def _without_port(text: str, field: str, port: int) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        host, colon, number = text.rpartition(":")
    if not colon:
        return text
    if number != str(port):
        raise InvalidArgument(
            f"{field}: this host serves on port {port}, not on {number}; another one is given "
            f"by --listen-addr 0.0.0.0:{number}, or by the host's setting (`port`)",
            field=field,
        )
    return host.strip("[]")


def _of_interface(name: str, field: str) -> str:

    request = struct.pack("256s", name.encode()[:15])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
    except OSError as error:
        raise InvalidArgument(
            f"{field}: {name} is neither an IP address nor an interface with one", field=field
        ) from error
    return socket.inet_ntoa(answer[20:24])
