"""How a person's container is on networks, and with which settings. Pure.

Docker's rules and sentences: `host`, `none` and another container's namespace go with no other
network; addresses and aliases are for networks that users made.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from agent.engine.records import Joined, Kind
from agent.network.desired import BRIDGE
from shoal.model.container import (
    ContainerConfig,
    ContainerCreate,
    EndpointIPAMConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
)
from shoal.model.errors import InvalidArgument, Unimplemented
from shoal.model.validate.settings import is_dockers_own

SHARED = (
    "container sharing network namespace with another container or host cannot be connected to"
    " any other network"
)
PRIVATE = (
    "container cannot be connected to multiple networks with one of the networks in private"
    " (none) mode"
)
OF_HOST = "container cannot be disconnected from host network or connected to host network"
_DEFAULTS = ("", "default", "nat")
_PLAIN = EndpointSettings()


def kind_of(host: HostConfig, config: ContainerConfig) -> Kind:
    """How a person's container is on networks, by its network mode."""
    mode = host.network_mode
    if config.network_disabled or mode == "none":
        return "none"
    if mode == "host":
        return "host"
    return "container" if mode.startswith("container:") else "joined"


def asked_networks(
    kind: Kind, host: HostConfig, config: ContainerConfig, networking: NetworkingConfig
) -> Mapping[str, EndpointSettings]:
    """Names of the networks asked for, the mode's own first, and the settings of each.

    Raises:
        InvalidArgument: networks that do not go together.
    """
    mode = BRIDGE if host.network_mode in _DEFAULTS else host.network_mode
    found = {
        (mode if name in _DEFAULTS else name): settings
        for name, settings in networking.endpoints_config.items()
    }
    if kind != "joined":
        if found.keys() - {mode, mode.partition(":")[0]}:
            raise InvalidArgument(
                PRIVATE if kind == "none" else SHARED, field="NetworkingConfig.EndpointsConfig"
            )
        return {}
    first = found.pop(mode, _PLAIN)
    if config.mac_address and not first.mac_address:
        first = _with_mac(first, config.mac_address)
    return {mode: first, **found}


def check_sharing(request: ContainerCreate) -> None:
    """Refuse what goes not with the network of another container, which has its own of each.

    Said of what the person asked for: an image's ports are no fault.

    Raises:
        InvalidArgument: the sentence names the option.
    """
    host = request.host_config
    mode = host.network_mode
    if not mode.startswith("container:"):
        return
    if mode == "container:":
        raise InvalidArgument(
            "invalid network mode: invalid container format container:<name|id>",
            field="HostConfig.NetworkMode",
        )
    of_type = "the container type network mode"
    for given, what, with_what, field in (
        (request.hostname, "hostname", "the network mode", "Hostname"),
        (host.dns, "dns", "the network mode", "HostConfig.Dns"),
        (host.extra_hosts, "custom host-to-IP mapping", "the network mode",
         "HostConfig.ExtraHosts"),
        (request.mac_address, "mac-address", "the network mode", "MacAddress"),
        (host.port_bindings or host.publish_all_ports, "port publishing", of_type,
         "HostConfig.PortBindings"),
        (request.exposed_ports, "port exposing", of_type, "ExposedPorts"),
    ):  # fmt: skip
        if given:
            raise InvalidArgument(f"conflicting options: {what} and {with_what}", field=field)


def _with_mac(settings: EndpointSettings, mac: str) -> EndpointSettings:
    return EndpointSettings(
        ipam_config=settings.ipam_config,
        links=settings.links,
        aliases=settings.aliases,
        mac_address=mac,
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
    )


def check_settings(name: str, settings: EndpointSettings) -> None:
    """Refuse settings of a place on the network `name` that nothing follows.

    Raises:
        InvalidArgument, Unimplemented: the sentence names the field.
    """
    field = f"EndpointsConfig.{name}"
    if settings.links:
        raise Unimplemented(f"{field}.Links: links are not supported: use aliases")
    for option in filter(is_dockers_own, settings.driver_opts):
        raise Unimplemented(f"{field}.DriverOpts: {option!r}: a place has no such option")
    if settings.gw_priority:
        raise Unimplemented(
            f"{field}.GwPriority: the first network that leads out is the gateway"
        )
    addresses = settings.ipam_config or EndpointIPAMConfig()
    for address in addresses.link_local_ips:
        if not _version(address):
            raise InvalidArgument(
                f"{field}.IPAMConfig.LinkLocalIPs: invalid link-local IP address: {address}",
                field=f"{field}.IPAMConfig.LinkLocalIPs",
            )
    for version, key, text in (
        (4, "IPv4Address", addresses.ipv4_address),
        (6, "IPv6Address", addresses.ipv6_address),
    ):
        if text and _version(text) != version:
            raise InvalidArgument(
                f"{field}.IPAMConfig.{key}: invalid IP address: {text}",
                field=f"{field}.IPAMConfig.{key}",
            )
    if name == BRIDGE and (addresses.ipv4_address or addresses.ipv6_address):
        raise InvalidArgument(
            "invalid config for network bridge: invalid endpoint settings:\n"
            "user specified IP address is supported on user defined networks only",
            field=f"{field}.IPAMConfig",
        )
    if name == BRIDGE and settings.aliases:
        raise InvalidArgument(
            "invalid config for network bridge: invalid endpoint settings:\n"
            "network-scoped aliases are only supported for user-defined networks",
            field=f"{field}.Aliases",
        )


def _version(text: str) -> int:
    try:
        return ip_address(text).version
    except ValueError:
        return 0


def wanted_addresses(settings: EndpointSettings) -> tuple[str, ...]:
    """The addresses asked for, without prefix length."""
    asked = settings.ipam_config or EndpointIPAMConfig()
    return tuple(each for each in (asked.ipv4_address, asked.ipv6_address) if each)


def link_local_addresses(settings: EndpointSettings) -> tuple[str, ...]:
    """The addresses that are asked for besides, with the prefix length of such."""
    asked = settings.ipam_config or EndpointIPAMConfig()
    return tuple(f"{a}/{64 if ':' in a else 16}" for a in asked.link_local_ips)


def needs_gateway(networks: Iterable[Joined], leading: Iterable[str]) -> bool:
    """Whether only the gateway network leads out: a cluster network's tasks have it too.

    `leading` are the networks of this host that lead out.
    """
    joined = list(networks)
    known = {*leading}
    if any(each.network in known for each in joined):
        return False
    return any(each.in_cluster and not each.internal for each in joined)
