"""The address a host was told to advertise when it entered its cluster, kept on disk.

`docker swarm init --advertise-addr` may name another address than the host would have chosen;
from then on every program of the host uses it, until the host leaves.
"""

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

import msgspec

from shoal.common.config import HostConfig
from shoal.model.errors import InvalidArgument

_FILE = "advertise.json"


class Advertised(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses as chosen at init or join; empty: the host's own setting."""

    address: str = ""
    data_path_address: str = ""


def advertised(config: HostConfig) -> HostConfig:
    """The host's configuration with the addresses it entered its cluster with."""
    try:
        chosen = msgspec.json.decode(_path(config).read_bytes(), type=Advertised)
    except FileNotFoundError:
        return config
    return msgspec.structs.replace(
        config,
        address=chosen.address or config.address,
        data_path_address=chosen.data_path_address or config.data_path_address,
    )


def choose(config: HostConfig, advertise: str, data_path: str, port: int) -> HostConfig:
    """Check the addresses of a request, keep them, and return the configuration with them."""
    chosen = Advertised(
        address=_local(advertise, "AdvertiseAddr", port),
        data_path_address=_local(data_path, "DataPathAddr", 0),
    )
    path = _path(config)
    fresh = path.with_name(_FILE + ".new")
    fresh.write_bytes(msgspec.json.encode(chosen))
    fresh.replace(path)
    return advertised(config)


def forget(config: HostConfig) -> None:
    """The host has left its cluster."""
    _path(config).unlink(missing_ok=True)


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
            f"{field}: this host serves on port {port}, not on {number}; the port is a setting "
            f"of the host (`port` in host.toml)",
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
