"""Cluster networks as the container half of the API shows networks. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime

from manager.api.wire.envelope import Json, envelope, instant
from manager.view import View
from shoal.model.addresses import bare
from shoal.model.ids import NetworkID
from shoal.model.objects import Network, Node, Service, Task
from shoal.model.spec.network import HOST, HOST_NETWORK, VXLAN_IDS, NetworkSpec

_NONE = "<nil>"


def network_json(network: Network) -> Json:
    """A cluster network; what containers of a host are on it, the host adds."""
    spec = network.spec
    return {
        "Name": spec.name,
        "Id": network.id,
        "Created": instant(network.created_at),
        "Scope": spec.scope,
        "Driver": spec.driver,
        "EnableIPv4": True,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": {
            "Driver": spec.ipam.driver,
            "Options": spec.ipam.options or None,
            "Config": _pools(network),
        },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": _options(network),
        "Labels": spec.labels,
    }


def host_network_json(view: View) -> Json:
    """The predefined network of each node's own: services name it, lists leave it out."""
    cluster = view.cluster()
    epoch = datetime.fromtimestamp(0, UTC)
    created = cluster.created_at if cluster is not None else epoch
    spec = NetworkSpec(
        name=HOST, driver=HOST, scope="swarm", labels={"com.docker.swarm.predefined": "true"}
    )
    network = Network(
        id=NetworkID(HOST_NETWORK), created_at=created, updated_at=created, spec=spec
    )
    return network_json(network)


def _options(network: Network) -> Json:
    found: Json = dict(network.spec.options)
    if network.vni:
        found[VXLAN_IDS] = str(network.vni)
    return found


def _pools(network: Network) -> list[Json]:
    """What it was given or, until then, what was asked for."""
    if network.pools:
        given = ((p.subnet, p.ip_range, p.gateway, p.reserved) for p in network.pools)
    else:
        config = network.spec.ipam.config
        given = ((c.subnet, c.ip_range, c.gateway, c.auxiliary_addresses) for c in config)
    found = []
    for subnet, ip_range, gateway, reserved in given:
        shown: Json = {"Subnet": subnet}
        if ip_range:
            shown["IPRange"] = ip_range
        if gateway:
            shown["Gateway"] = gateway
        if reserved:
            shown["AuxiliaryAddresses"] = reserved
        found.append(shown)
    return found


def swarm_network_json(network: Network) -> Json:
    """A network as it stands in a task's attachment."""
    spec = network.spec
    given = {"Driver": {"Name": spec.ipam.driver}, "Configs": _pools(network)}
    return {
        **envelope(network),
        "Spec": {
            "Name": spec.name,
            "Labels": spec.labels,
            "DriverConfiguration": {"Name": spec.driver, "Options": spec.options},
            "IPv6Enabled": spec.enable_ipv6,
            "Internal": spec.internal,
            "Attachable": spec.attachable,
            "Ingress": spec.ingress,
            "IPAMOptions": {"Driver": {"Name": spec.ipam.driver}},
            "Scope": spec.scope,
        },
        "DriverState": {"Name": spec.driver, "Options": _options(network)},
        "IPAMOptions": given,
    }


def peers_json(view: View, network: Network) -> list[Json]:
    """The hosts that have a task on it; of the ingress network all that take part."""
    if network.spec.ingress:
        return [{"Name": n.id, "IP": _underlay(n)} for n in view.nodes() if n.subnet]
    nodes = {task.node_id for task in view.tasks_on_network(network.id)} - {None}
    found = [view.node(node) for node in sorted(n for n in nodes if n is not None)]
    return [{"Name": node.id, "IP": _underlay(node)} for node in found if node is not None]


def services_json(view: View, network: Network) -> Json:
    """Services on a network with their virtual IPs, ports and tasks, by name."""
    tasks: dict[str, list[Task]] = {}
    services = list(view.services_on_network(network.id))
    if network.spec.ingress:
        services = [one for one in view.services() if _virtual_ip(one, network) != _NONE]
        tasks = {one.id: list(view.tasks_of_service(one.id)) for one in services}
    for task in view.tasks_on_network(network.id):
        tasks.setdefault(task.service_id, []).append(task)
    return {
        service.spec.name: {
            "VIP": _virtual_ip(service, network),
            "Ports": [
                f"Target: {port.target_port}, Publish: {port.published_port}"
                for port in service.endpoint.ports
            ],
            "LocalLBIndex": 0,
            "Tasks": list(_tasks(view, network, tasks.get(service.id, []))),
        }
        for service in services
    }


def _virtual_ip(service: Service, network: Network) -> str:
    found = [ip.addr for ip in service.endpoint.virtual_ips if ip.network_id == network.id]
    return bare(found[0]) if found else _NONE


def _tasks(view: View, network: Network, tasks: Iterable[Task]) -> Iterable[Json]:
    for task in tasks:
        node = view.node(task.node_id) if task.node_id is not None else None
        addresses = [
            address
            for place in task.networks
            if place.network_id == network.id
            for address in place.addresses
        ]
        if network.spec.ingress:
            addresses = [] if task.ended else list(task.status.addresses)
            if not addresses:
                continue
        yield {
            "Name": task.name,
            "EndpointID": task.id,
            "EndpointIP": bare(addresses[0]) if addresses else "",
            "Info": {"Host IP": _underlay(node) if node is not None else ""},
        }


def _underlay(node: Node) -> str:
    return node.data_path_addr or node.addr
