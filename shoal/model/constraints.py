"""Placement constraints, `key == value` and `key != value`: parse and match. Pure.

All forms of docker-swarm.md 1.5. Called by validation (wrong ones), by the scheduler and by the
enforcer. A key that no rule knows is accepted and matches no node, as Swarm has it.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import msgspec

from shoal.model.errors import InvalidArgument
from shoal.model.objects import Node, NodeDescription
from shoal.model.spec.task import Placement, TaskSpec

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)
_NODE_LABEL = "node.labels."
_ENGINE_LABEL = "engine.labels."
_NO_DESCRIPTION = NodeDescription()


class Constraint(msgspec.Struct, frozen=True):
    """One parsed expression; `text` is what the user wrote."""

    key: str
    equal: bool
    value: str
    text: str


def parse(text: str) -> Constraint:
    """One expression.

    Raises:
        InvalidArgument: it has no operator, or key or value are not well formed.

    >>> parse("node.role != manager").equal
    False
    """
    positions = [(text.find(operator), operator) for operator in ("==", "!=")]
    found = sorted((at, operator) for at, operator in positions if at >= 0)
    if not found:
        raise InvalidArgument(
            f"constraint '{text}' needs one of the operators == and !=, "
            "as in node.labels.disk==ssd"
        )
    at, operator = found[0]
    key, value = text[:at].strip(), text[at + 2 :].strip()
    if _KEY.fullmatch(key) is None:
        raise InvalidArgument(
            f"constraint '{text}': key '{key}' is invalid; "
            "it is node.id, node.hostname, node.role, node.labels.NAME or the like"
        )
    if _VALUE.fullmatch(value) is None:
        raise InvalidArgument(f"constraint '{text}': value '{value}' is invalid")
    return Constraint(key, operator == "==", value, f"{key}{operator}{value}")


def parse_all(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """All expressions of a placement; a node must match each."""
    return tuple([parse(text) for text in texts])


def matches(constraint: Constraint, node: Node) -> bool:
    """Whether a node satisfies one constraint."""
    key = constraint.key.lower()
    if key == "node.ip":
        return _matches_address(constraint, node.addr)
    if key.startswith(_NODE_LABEL):
        found = node.spec.labels.get(constraint.key[len(_NODE_LABEL) :], "")
    elif key.startswith(_ENGINE_LABEL):
        labels = (node.description or _NO_DESCRIPTION).engine.labels
        found = labels.get(constraint.key[len(_ENGINE_LABEL) :], "")
    else:
        known = _attribute(key, node)
        if known is None:
            return False
        found = known
    return (found.lower() == constraint.value.lower()) is constraint.equal


def first_unmet(constraints: Iterable[Constraint], node: Node) -> Constraint | None:
    """The first constraint that a node does not satisfy."""
    for constraint in constraints:
        if not matches(constraint, node):
            return constraint
    return None


def unconstrained(template: TaskSpec) -> TaskSpec:
    """A template less its constraints: what two have in common that differ in those alone."""
    placement = template.placement if template.placement is not None else Placement()
    bare = msgspec.structs.replace(placement, constraints=())
    return msgspec.structs.replace(template, placement=bare)


def _attribute(key: str, node: Node) -> str | None:
    description = node.description or _NO_DESCRIPTION
    match key:
        case "node.id":
            return node.id
        case "node.hostname":
            return description.hostname
        case "node.role":
            return node.role.value
        case "node.platform.os":
            return description.platform.os
        case "node.platform.arch":
            return description.platform.architecture
        case _:
            return None


def _matches_address(constraint: Constraint, address: str) -> bool:
    try:
        network = ip_network(constraint.value, strict=False)
    except ValueError:
        return False
    try:
        inside = ip_address(address) in network
    except ValueError:
        inside = False
    return inside is constraint.equal
