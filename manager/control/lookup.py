"""Which object a person means: its full id, its exact name, or the start of its id. Pure."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from manager.view import View
from shoal.model.ids import ConfigID, NetworkID, NodeID, SecretID, ServiceID, TaskID
from shoal.model.objects import Config, Network, Node, Secret, Service, Task
from shoal.model.validate.refusal import ambiguous, missing

T = TypeVar("T", Node, Service, Task, Network, Secret, Config)


def find_service(view: View, text: str) -> Service:
    found = view.service(ServiceID(text)) or view.service_named(text)
    return found or _by_prefix("service", text, view.services())


def find_task(view: View, text: str) -> Task:
    """A task by id, or by its name `web.1.<id>`."""
    found = view.task(TaskID(text)) or view.task(TaskID(text.rpartition(".")[2]))
    if found is not None and text in (found.id, found.name):
        return found
    return _by_prefix("task", text, view.tasks())


def find_node(view: View, text: str) -> Node:
    """A node by id, by its host name, or by the name in its spec."""
    found = view.node(NodeID(text))
    if found is not None:
        return found
    return _by_name("node", text, view.nodes(), node_name) or _by_prefix(
        "node", text, view.nodes()
    )


def networks_of(view: View) -> list[Network]:
    """The networks that there are for users: not those that only wait for their last task."""
    return [network for network in view.networks() if not network.pending_delete]


def find_network(view: View, text: str) -> Network:
    there = networks_of(view)
    found = view.network(NetworkID(text))
    if found is not None and not found.pending_delete:
        return found
    return _by_name("network", text, there, lambda n: n.name) or _by_prefix(
        "network", text, there
    )


def find_secret(view: View, text: str) -> Secret:
    found = view.secret(SecretID(text))
    if found is not None:
        return found
    return _by_name("secret", text, view.secrets(), lambda s: s.name) or _by_prefix(
        "secret", text, view.secrets()
    )


def find_config(view: View, text: str) -> Config:
    found = view.config(ConfigID(text))
    if found is not None:
        return found
    return _by_name("config", text, view.configs(), lambda c: c.name) or _by_prefix(
        "config", text, view.configs()
    )


def node_name(node: Node) -> str:
    """What `docker node ls` calls it."""
    return node.description.hostname if node.description is not None else ""


def _by_name(kind: str, text: str, among: Iterable[T], name: Callable[[T], str]) -> T | None:
    found = [one for one in among if text and name(one) == text]
    if len(found) > 1:
        raise ambiguous(kind, text, len(found))
    return found[0] if found else None


def _by_prefix(kind: str, text: str, among: Iterable[T]) -> T:
    found = [one for one in among if text and one.id.startswith(text)]
    if len(found) > 1:
        raise ambiguous(kind, text, len(found))
    if not found:
        raise missing(kind, text)
    return found[0]
