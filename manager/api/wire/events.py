"""Changes of the cluster's objects as `docker events` tells them. Pure.

Nodes, services, networks, secrets and configs, created, updated and removed; never tasks. An
update of a node or service carries what was and what is (docker-swarm.md 1.12).
"""

from collections.abc import Mapping

import msgspec

from manager.api.wire.nodes import reachability
from shoal.model.changes import Event
from shoal.model.objects import Config, Network, Node, Secret, Service, StoredObject

_KINDS: dict[type, str] = {
    Node: "node",
    Service: "service",
    Network: "network",
    Secret: "secret",
    Config: "config",
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One event, still without its instant."""

    kind: str
    action: str
    actor: str
    attributes: Mapping[str, str]


def told(event: Event) -> Told | None:
    """What is said of a change; None for what users are not told."""
    thing = event.object
    kind = _KINDS.get(type(thing))
    if kind is None:
        return None
    attributes = {"name": _name(thing)}
    if isinstance(thing, Network):
        return _told_of_network(event, thing)
    if event.before is None:
        action = "create"
    elif event.after is None:
        action = "remove"
    else:
        action = "update"
        differences = _differences(event.before, event.after)
        if differences is None:
            return None
        attributes |= differences
    return Told(kind=kind, action=action, actor=thing.id, attributes=attributes)


def _told_of_network(event: Event, network: Network) -> Told | None:
    """It is removed for its users when it is marked so; allocation is not their business."""
    attributes = {"name": network.name, "type": network.spec.driver}
    was_there = isinstance(event.before, Network) and not event.before.pending_delete
    is_there = isinstance(event.after, Network) and not event.after.pending_delete
    if was_there is is_there:
        return None
    action = "create" if is_there else "remove"
    return Told(kind="network", action=action, actor=network.id, attributes=attributes)


def _name(thing: StoredObject) -> str:
    match thing:
        case Service():
            return thing.spec.name
        case Node():
            return thing.description.hostname if thing.description is not None else ""
        case Network() | Secret() | Config():
            return thing.name
        case _:
            return ""


def _differences(before: StoredObject, after: StoredObject) -> dict[str, str] | None:
    """Old and new of what changed; None where nothing did that is a user's business."""
    if isinstance(before, Service) and isinstance(after, Service):
        found = _changed(_service_facts(before), _service_facts(after))
        return found if found or before.spec != after.spec else None
    if isinstance(before, Node) and isinstance(after, Node):
        found = _changed(_node_facts(before), _node_facts(after))
        return found if found or before.spec != after.spec else None
    return {}


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, new in after.items():
        old = before[name]
        if old != new:
            if old:
                found[f"{name}.old"] = old
            if new:
                found[f"{name}.new"] = new
    return found


def _service_facts(service: Service) -> dict[str, str]:
    spec = service.spec
    container = spec.task_template.container_spec
    replicated = spec.mode.replicated
    replicas = replicated.replicas if replicated is not None else None
    status = service.update_status
    return {
        "image": container.image if container is not None else "",
        "replicas": "" if replicas is None else str(replicas),
        "updatestate": status.state.value if status is not None else "",
    }


def _node_facts(node: Node) -> dict[str, str]:
    return {
        "state": node.state.value,
        "availability": node.spec.availability,
        "role": node.role.value,
        "reachability": reachability(node).value if node.manager is not None else "",
    }
