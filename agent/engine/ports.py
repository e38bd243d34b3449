"""Published ports: from Docker's maps to what the network binds, and back for people. Pure."""

import re
from collections.abc import Mapping
from typing import cast

from agent.network.desired import ANY_ADDRESS, Endpoint, PortBinding, Protocol
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import InvalidArgument
from shoal.model.numbers import within

_HOST_PORTS = re.compile(r"(\d{1,5})?(?:-(\d{1,5}))?", re.ASCII)


def wanted(config: ContainerConfig, host: HostConfig) -> tuple[PortBinding, ...]:
    """All bindings of a container; with `-P` exposed ports get free ones."""
    found: list[PortBinding] = []
    for key, bindings in host.port_bindings.items():
        protocol, port = split(key)
        for binding in bindings:
            first, last = _host_ports(binding.host_port)
            found.append(
                PortBinding(
                    protocol=protocol,
                    container_port=port,
                    host_port=first,
                    last_host_port=last,
                    host_ip=binding.host_ip or ANY_ADDRESS,
                )
            )
    if host.publish_all_ports:
        for key in config.exposed_ports:
            if key not in host.port_bindings:
                protocol, port = split(key)
                found.append(PortBinding(protocol=protocol, container_port=port))
    return tuple(found)


def split(key: str) -> tuple[Protocol, int]:
    """`80/tcp` or `80`."""
    port, _, protocol = key.partition("/")
    number = within(port, 1, 65535)
    if number is None:
        raise InvalidArgument(f'invalid port specification: "{key}"')
    if (protocol or "tcp") not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f'invalid port specification: "{key}": unknown protocol')
    return cast("Protocol", protocol or "tcp"), number


def by_container_port(
    config: ContainerConfig, endpoint: Endpoint | None
) -> Mapping[str, list[dict[str, str]] | None]:
    """`NetworkSettings.Ports`: exposed ports without a binding are null."""
    shown: dict[str, list[dict[str, str]] | None] = {
        (key if "/" in key else f"{key}/tcp"): None for key in config.exposed_ports
    }
    for port in endpoint.ports if endpoint else ():
        key = f"{port.container_port}/{port.protocol}"
        entry = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
        shown[key] = [*(shown.get(key) or []), entry]
    return shown


def listed(config: ContainerConfig, endpoint: Endpoint | None) -> list[dict[str, object]]:
    """The `Ports` of a list entry."""
    rows: list[dict[str, object]] = []
    for key, bindings in by_container_port(config, endpoint).items():
        protocol, port = split(key)
        if bindings is None:
            rows.append({"PrivatePort": port, "Type": protocol})
        rows += [
            {
                "IP": binding["HostIp"],
                "PrivatePort": port,
                "PublicPort": int(binding["HostPort"]),
                "Type": protocol,
            }
            for binding in bindings or ()
        ]
    return rows


def _host_ports(text: str) -> tuple[int, int]:
    """The port, or the range out of which one is taken; 0, 0 for any free one."""
    found = _HOST_PORTS.fullmatch(text)
    first, last = (int(each or 0) for each in found.groups()) if found else (-1, -1)
    if not 0 <= first <= 65535 or last > 65535 or 0 < last < first or (last and not first):
        raise InvalidArgument(
            f"invalid port specification: {text!r}: a port, or a range such as 8000-8010",
            field="HostConfig.PortBindings",
        )
    return first, last if last != first else 0
