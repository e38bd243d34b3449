"""The networks of a container as the API shows them: by name, as with Docker. Pure.

A task's are those of its service; the gateway network, which all tasks have, is shown as what
Swarm's users know in its place: `ingress` where the cluster's published ports lead to the task,
`bridge` where it is on no other network.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from agent.engine.records import Joined, Record
from agent.network.desired import BRIDGE, MESH, NOWHERE, Interface
from shoal.model.container import EndpointIPAMConfig, EndpointSettings

INGRESS = "ingress"


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of networks beside a container's record.

    Attributes:
        local: ids of the host's own by name.
        names: of the cluster's, by id.
        published: whether the cluster's published ports lead to the container.
    """

    local: Mapping[str, str]
    names: Mapping[str, str] = {}
    published: bool = False


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A container on a network.

    Attributes:
        identity: the network's, empty where it is not known.
        asked: a person's wish; None for a task, whose addresses its managers chose.
    """

    name: str
    identity: str
    interface: Interface = NOWHERE
    aliases: tuple[str, ...] = ()
    named: bool = False
    asked: EndpointSettings | None = None


def places(record: Record, networks: Networks) -> list[Place]:
    """All networks of a container that are to be seen, in the order of its interfaces."""
    if record.network == "container":
        return []
    if record.network in ("bridge", "joined"):
        return [_joined(record, each, networks) for each in record.networks]
    if not record.attachments:
        return [_local(record, record.network, networks, record.network)]
    found = [
        Place(
            name=networks.names.get(each.network, each.network),
            identity=each.network,
            interface=_interface(record, each.network),
            aliases=each.aliases,
            named=True,
        )
        for each in record.attachments
        if each.network != MESH
    ]
    if networks.published:
        found.append(_local(record, INGRESS, networks, MESH))
    return found or [_local(record, BRIDGE, networks, MESH)]


def shape(record: Record, networks: Networks) -> dict[str, Any]:
    """`NetworkSettings.Networks`."""
    return {each.name: _entry(record, each) for each in places(record, networks)}


def default_interface(record: Record, networks: Networks) -> Interface:
    """Its place on `bridge`, which `NetworkSettings` itself tells of."""
    on = (each.interface for each in places(record, networks) if each.name == BRIDGE)
    return next(on, NOWHERE)


def _joined(record: Record, joined: Joined, networks: Networks) -> Place:
    """Where a person put it."""
    own = joined.network == BRIDGE
    return Place(
        name=joined.name,
        identity=networks.local.get(BRIDGE, "") if own else joined.network,
        interface=_interface(record, joined.network),
        aliases=joined.settings.aliases,
        named=not own,
        asked=joined.settings,
    )


def _local(record: Record, name: str, networks: Networks, network: str) -> Place:
    return Place(
        name=name,
        identity=networks.local.get(name, ""),
        interface=_interface(record, network),
    )


def _interface(record: Record, network: str) -> Interface:
    endpoint = record.endpoint if record.state.running else None
    return (endpoint.on(network) if endpoint is not None else None) or NOWHERE


def _entry(record: Record, place: Place) -> dict[str, Any]:
    interface = place.interface
    running = record.endpoint is not None and record.state.running
    asked = place.asked or EndpointSettings()
    wish = _wish(place) if place.named and running else _as_said(asked.ipam_config)
    return {
        "IPAMConfig": wish,
        "Links": None,
        "Aliases": list(place.aliases) or None,
        "MacAddress": interface.mac or asked.mac_address,
        "DriverOpts": dict(asked.driver_opts) or None,
        "GwPriority": 0,
        "NetworkID": place.identity,
        "EndpointID": _endpoint_id(record, place) if running else "",
        "Gateway": interface.gateway,
        "IPAddress": interface.ipv4,
        "IPPrefixLen": interface.prefix_length,
        "IPv6Gateway": next((each for each in interface.gateways if ":" in each), ""),
        "GlobalIPv6Address": interface.ipv6,
        "GlobalIPv6PrefixLen": interface.prefix_length6,
        "DNSNames": _names(record, place) if place.named else None,
    }


def _wish(place: Place) -> dict[str, Any] | None:
    if place.asked is None:
        return _asked(place.interface)
    return _as_said(place.asked.ipam_config)


def _as_said(wish: EndpointIPAMConfig | None) -> dict[str, Any] | None:
    return msgspec.to_builtins(wish) or None


def _asked(interface: Interface) -> dict[str, str]:
    """The addresses that the managers chose, as the user's wish to Docker."""
    found = {"IPv4Address": interface.ipv4, "IPv6Address": interface.ipv6}
    return {key: address for key, address in found.items() if address}


def _names(record: Record, place: Place) -> list[str]:
    names = (record.name, *place.aliases, record.id[:12], record.config.hostname)
    return [each for each in dict.fromkeys(names) if each]


def _endpoint_id(record: Record, place: Place) -> str:
    if not place.named:
        return record.id
    return hashlib.sha256(f"{record.id}/{place.identity}".encode()).hexdigest()


def identities(found: Iterable[Place]) -> list[str]:
    """What a filter by network may name them by."""
    return [text for each in found for text in (each.name, each.identity) if text]
