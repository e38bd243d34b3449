"""What containers see of a network: its names, and its virtual IPs with their backends. Pure.

Made once for all containers of the network; a network nothing of which changed keeps its view,
the same object, and a service nothing of which changed its part of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from agent.network.balancing import Backends, virtual_ips
from agent.network.desired import ClusterNetworks
from agent.network.names import Zone
from agent.network.zones import Host, Names, cluster_zone, local_zone, names_of
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService
from shoal.model.ids import NetworkID, ServiceID


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """One network, as seen from inside."""

    zone: Zone
    virtual_ips: Mapping[str, Backends] = {}


class _Part(msgspec.Struct, frozen=True):
    """One service's share of a network's view, and what it was made of."""

    network: str
    service: NetworkService | None
    endpoints: list[NetworkEndpoint]
    names: Names
    virtual_ips: Mapping[str, Backends]


class _Known(msgspec.Struct, frozen=True):
    """A view and what it was made of."""

    network: AssignedNetwork
    parts: Mapping[ServiceID, _Part]
    view: NetworkView


class ClusterViews:
    """The views of the cluster's networks on this host.

    A change costs what it changes: the parts of services that are as before are used again.
    """

    def __init__(self) -> None:
        self._known: dict[NetworkID, _Known] = {}

    def update(self, networks: ClusterNetworks) -> Mapping[str, NetworkView]:
        """All views, by network id."""
        endpoints: defaultdict[NetworkID, _Endpoints] = defaultdict(_endpoints)
        services: defaultdict[NetworkID, list[NetworkService]] = defaultdict(list)
        for endpoint in networks.endpoints.values():
            endpoints[endpoint.network_id][endpoint.service_id].append(endpoint)
        for service in networks.services.values():
            services[service.network_id].append(service)
        self._known = {
            each.id: _known(
                each, services[each.id], endpoints[each.id], self._known.get(each.id)
            )
            for each in networks.networks.values()
        }
        return {key: known.view for key, known in self._known.items()}


_Endpoints = defaultdict[ServiceID, list[NetworkEndpoint]]


def _endpoints() -> _Endpoints:
    return defaultdict(list)


def _known(
    network: AssignedNetwork,
    services: Iterable[NetworkService],
    endpoints: _Endpoints,
    before: _Known | None,
) -> _Known:
    named = {service.service_id: service for service in services}
    old = before.parts if before is not None else {}
    parts = {
        key: _part(network.name, named.get(key), endpoints.get(key, []), old.get(key))
        for key in {**named, **endpoints}
    }
    if (
        before is not None
        and before.network == network
        and list(old) == list(parts)
        and all(old[key] is part for key, part in parts.items())
    ):
        return before
    return _made(network, parts)


def _made(network: AssignedNetwork, parts: Mapping[ServiceID, _Part]) -> _Known:
    virtual: dict[str, Backends] = {}
    for part in parts.values():
        virtual.update(part.virtual_ips)
    zone = cluster_zone(network, [part.names for part in parts.values()])
    return _Known(network, parts, NetworkView(zone=zone, virtual_ips=virtual))


def _part(
    network: str,
    service: NetworkService | None,
    endpoints: list[NetworkEndpoint],
    before: _Part | None,
) -> _Part:
    if before is not None and (before.network, before.service, before.endpoints) == (
        network,
        service,
        endpoints,
    ):
        return before
    return _Part(
        network,
        service,
        endpoints,
        names_of(network, service, endpoints),
        virtual_ips(service, endpoints) if service is not None else {},
    )


def local_view(network: str, hosts: Iterable[Host], subnets: Iterable[str] = ()) -> NetworkView:
    """The view of a network that exists on this host alone."""
    return NetworkView(zone=local_zone(network, hosts, subnets))
