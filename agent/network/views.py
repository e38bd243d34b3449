"""What containers see of a network: its names, and its virtual IPs with their backends. Pure.

Made once for all containers of the network; a network nothing of which changed keeps its view,
the same object.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from agent.network.balancing import Backends, virtual_ips
from agent.network.desired import ClusterNetworks
from agent.network.names import Host, Zone, cluster_zone, local_zone
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService
from shoal.model.ids import NetworkID


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """One network, as seen from inside."""

    zone: Zone
    virtual_ips: Mapping[str, Backends] = {}


class _Content(msgspec.Struct, frozen=True):
    network: AssignedNetwork
    services: list[NetworkService]
    endpoints: list[NetworkEndpoint]


class ClusterViews:
    """The views of the cluster's networks on this host."""

    def __init__(self) -> None:
        self._contents: dict[NetworkID, _Content] = {}
        self._views: dict[str, NetworkView] = {}

    def update(self, networks: ClusterNetworks) -> Mapping[str, NetworkView]:
        """All views, by network id."""
        endpoints: defaultdict[NetworkID, list[NetworkEndpoint]] = defaultdict(list)
        services: defaultdict[NetworkID, list[NetworkService]] = defaultdict(list)
        for endpoint in networks.endpoints.values():
            endpoints[endpoint.network_id].append(endpoint)
        for service in networks.services.values():
            services[service.network_id].append(service)
        views: dict[str, NetworkView] = {}
        contents: dict[NetworkID, _Content] = {}
        for each in networks.networks.values():
            new = _Content(each, services[each.id], endpoints[each.id])
            contents[each.id] = new
            same = self._contents.get(each.id) == new
            views[each.id] = self._views[each.id] if same else _view(new)
        self._contents, self._views = contents, views
        return views


def _view(content: _Content) -> NetworkView:
    by_service: defaultdict[str, list[NetworkEndpoint]] = defaultdict(list)
    for endpoint in content.endpoints:
        by_service[endpoint.service_id].append(endpoint)
    return NetworkView(
        zone=cluster_zone(content.network, content.services, by_service),
        virtual_ips=virtual_ips(content.services, by_service),
    )


def local_view(network: str, hosts: Iterable[Host], subnets: Iterable[str] = ()) -> NetworkView:
    """The view of a network that exists on this host alone."""
    return NetworkView(zone=local_zone(network, hosts, subnets))
