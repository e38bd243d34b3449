"""Published ingress ports of services. Pure; the only owner of that pool.

Explicit ports are taken as they are, automatic ones are the lowest free of 30000 to 32767 and
kept across updates. Guard keys keep one port from two services (`manager.store.keys`). Ports
of mode `host` belong to tasks and are the scheduler's.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from manager.view import View
from shoal.model.changes import NOTHING, Decision, Group, Update
from shoal.model.defaults import endpoint_of, is_host_port, mesh_ports, protocol_of
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Endpoint, Service
from shoal.model.spec.service import PortConfig

FIRST_AUTOMATIC = 30000
LAST_AUTOMATIC = 32767

Port = tuple[str, int]


def decide(view: View, key: str, now: datetime, ids: IdSource) -> Decision:
    """Give one service the ports it publishes; all of them or none."""
    del ids
    service = view.service(ServiceID(key))
    if service is None or allocated(service):
        return NOTHING
    found = _allocate(view, service)
    if isinstance(found, str):
        return NOTHING
    endpoint = msgspec.structs.replace(
        service.endpoint, spec=endpoint_of(service.spec), ports=found
    )
    changed = msgspec.structs.replace(service, endpoint=endpoint, updated_at=now)
    return Decision(groups=(Group((Update(changed),), reason="publish ports"),))


def allocated(service: Service) -> bool:
    """Whether the service has the ports that its spec asks for."""
    wanted = endpoint_of(service.spec)
    if service.endpoint.spec != wanted:
        return False
    have = service.endpoint.ports
    return len(have) == len(wanted.ports) and all(
        port.published_port or is_host_port(port) for port in have
    )


def why_unallocated(view: View, service: Service) -> str | None:
    """What the service's ports wait for; None where it has them."""
    if allocated(service):
        return None
    found = _allocate(view, service)
    return found if isinstance(found, str) else None


def _allocate(view: View, service: Service) -> tuple[PortConfig, ...] | str:
    """All ports, or the sentence that says which one is not to be had."""
    taken = _taken(view, service)
    wanted = endpoint_of(service.spec).ports
    for port in wanted:
        holder = taken.get((protocol_of(port), port.published_port))
        if port.published_port and not is_host_port(port) and holder is not None:
            return (
                f"port {port.published_port}/{protocol_of(port)} "
                f"is already published by service {holder}"
            )
    mine = {_port(port): "" for port in mesh_ports(wanted)}
    taken.update(mine)
    kept = list(service.endpoint.ports)
    given: list[PortConfig] = []
    for port in wanted:
        filled = port if is_host_port(port) or port.published_port else None
        filled = filled or _keep(port, kept, taken) or _lowest(port, taken)
        if filled is None:
            return (
                f"no free {protocol_of(port)} port for target port {port.target_port}: all of "
                f"{FIRST_AUTOMATIC} to {LAST_AUTOMATIC} are published"
            )
        if not is_host_port(port):
            taken[_port(filled)] = service.spec.name
        given.append(_spelled(filled))
    return tuple(given)


def _port(port: PortConfig) -> Port:
    return (protocol_of(port), port.published_port)


def _spelled(port: PortConfig) -> PortConfig:
    """With protocol and mode in words, as Docker shows them."""
    return msgspec.structs.replace(
        port, protocol=protocol_of(port), publish_mode=port.publish_mode or "ingress"
    )


def _taken(view: View, but: Service) -> dict[Port, str]:
    """Published ports of all other services and who holds them."""
    return {
        _port(port): other.spec.name
        for other in view.services()
        if other.id != but.id
        for port in published(other.endpoint)
    }


def published(endpoint: Endpoint) -> Iterable[PortConfig]:
    """The ingress ports of an endpoint."""
    return [port for port in mesh_ports(endpoint.ports) if port.published_port]


def _keep(
    port: PortConfig, kept: list[PortConfig], taken: dict[Port, str]
) -> PortConfig | None:
    """The port that the service had before for the same target."""
    for old in kept:
        same = old.target_port == port.target_port and protocol_of(old) == protocol_of(port)
        in_range = FIRST_AUTOMATIC <= old.published_port <= LAST_AUTOMATIC
        if same and in_range and not is_host_port(old) and _port(old) not in taken:
            kept.remove(old)
            return msgspec.structs.replace(port, published_port=old.published_port)
    return None


def _lowest(port: PortConfig, taken: dict[Port, str]) -> PortConfig | None:
    protocol = protocol_of(port)
    for number in range(FIRST_AUTOMATIC, LAST_AUTOMATIC + 1):
        if (protocol, number) not in taken:
            return msgspec.structs.replace(port, published_port=number)
    return None
