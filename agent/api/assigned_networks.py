"""What this node was told of the cluster's networks, as the API shows networks. Pure."""

from collections.abc import Iterable
from typing import Any

from agent.engine.container import Container
from agent.network.desired import MESH
from shoal.model.assignment import (
    AssignedNetwork,
    AssignedTask,
    Assignments,
    NetworkEndpoint,
    TaskNetwork,
)

Json = dict[str, Any]

_NEVER = "0001-01-01T00:00:00Z"
"""When it was made is the managers' to know."""


def networks_of(told: Assignments) -> list[AssignedNetwork]:
    """Those that this node was told of: those it has tasks on, and `ingress`."""
    ingress = told.mesh.ingress
    return [*([ingress] if ingress is not None else []), *told.networks.values()]


def network_json(told: Assignments, network: AssignedNetwork) -> Json:
    """A network that this node was told of."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": _NEVER,
        "Scope": "swarm",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": any(":" in one.subnet for one in network.subnets),
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": s.subnet, "Gateway": s.gateway} for s in network.subnets],
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network is told.mesh.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": network.options,
        "Labels": network.labels,
    }


def services_json(told: Assignments, network: AssignedNetwork) -> Json:
    """`Peers` and `Services` of a network, from its endpoints."""
    endpoints = [one for one in told.endpoints.values() if one.network_id == network.id]
    hosts = sorted({(one.node_id, one.underlay) for one in endpoints})
    if network is told.mesh.ingress:
        hosts = [(peer.node_id, peer.address) for peer in told.mesh.peers]
    return {
        "Peers": [{"Name": node, "IP": underlay} for node, underlay in hosts],
        "Services": {
            service.name: {
                "VIP": service.virtual_ips[0] if service.virtual_ips else "<nil>",
                "Ports": [
                    f"Target: {port.target_port}, Publish: {port.published_port}"
                    for port in service.ports
                ],
                "LocalLBIndex": 0,
                "Tasks": [
                    _task(one) for one in endpoints if one.service_id == service.service_id
                ],
            }
            for service in told.services.values()
            if service.network_id == network.id
        },
    }


def _task(endpoint: NetworkEndpoint) -> Json:
    return {
        "Name": endpoint.names[0] if endpoint.names else "",
        "EndpointID": endpoint.task_id,
        "EndpointIP": endpoint.addresses[0] if endpoint.addresses else "",
        "Info": {"Host IP": endpoint.underlay},
    }


def members(told: Assignments, network: str, containers: Iterable[Container]) -> Json:
    """This host's running containers on a network, by their id."""
    ingress = told.mesh.ingress
    if ingress is not None and network == ingress.id:
        return _published(told, containers)
    places = {
        task.attached or task.id: (task, place)
        for task in told.tasks.values()
        for place in task.networks
        if place.network_id == network
    }
    found = {}
    for container in containers:
        record = container.record
        told_of = places.get(record.owner) or places.get(record.id)
        if told_of is not None and record.state.running:
            found[record.id] = _member(record.name, *told_of)
    return found


def _published(told: Assignments, containers: Iterable[Container]) -> Json:
    """Those that published ports of the cluster lead to."""
    led_to = {one.address for port in told.ingress.ports for one in port.backends}
    found = {}
    for container in containers:
        record = container.record
        endpoint = record.endpoint if record.state.running else None
        place = endpoint.on(MESH) if endpoint is not None else None
        if place is not None and place.ipv4 in led_to:
            found[record.id] = {
                "Name": record.name,
                "EndpointID": record.owner,
                "MacAddress": place.mac,
                "IPv4Address": place.addresses[0],
                "IPv6Address": "",
            }
    return found


def _member(name: str, task: AssignedTask, place: TaskNetwork) -> Json:
    return {
        "Name": name,
        "EndpointID": task.id,
        "MacAddress": place.mac,
        "IPv4Address": next((a for a in place.addresses if ":" not in a), ""),
        "IPv6Address": next((a for a in place.addresses if ":" in a), ""),
    }
