"""Published ports: from Docker's maps to what the network binds, and back for people. Pure."""

from collections.abc import Mapping
from typing import cast

from agent.network.desired import ANY_ADDRESS, Endpoint, PortBinding, Protocol
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import InvalidArgument, Unimplemented


def wanted(config: ContainerConfig, host: HostConfig) -> tuple[PortBinding, ...]:
    """All bindings of a container; with `-P` exposed ports get free ones."""
    found: list[PortBinding] = []
    for key, bindings in host.port_bindings.items():
        protocol, port = split(key)
        found += [
            PortBinding(
                protocol=protocol,
                container_port=port,
                host_port=_host_port(binding.host_port),
                host_ip=binding.host_ip or ANY_ADDRESS,
            )
            for binding in bindings
        ]
    if host.publish_all_ports:
        for key in config.exposed_ports:
            if key not in host.port_bindings:
                protocol, port = split(key)
                found.append(PortBinding(protocol=protocol, container_port=port))
    return tuple(found)


def split(key: str) -> tuple[Protocol, int]:
    """`80/tcp` or `80`."""
    port, _, protocol = key.partition("/")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f'invalid port specification: "{key}"')
    if (protocol or "tcp") not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f'invalid port specification: "{key}": unknown protocol')
    return cast("Protocol", protocol or "tcp"), int(port)


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


def _host_port(text: str) -> int:
    if not text:
        return 0
    if "-" in text:
        raise Unimplemented(
            f"host port range {text} for one container port: name one port, or none for a"
            " free one"
        )
    if not text.isdigit() or int(text) > 65535:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return int(text)
