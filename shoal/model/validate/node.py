"""The rules of a NodeSpec. Pure; called by `manager.control.nodes`."""

from shoal.model.spec.node import NodeSpec
from shoal.model.states import Availability, NodeRole
from shoal.model.validate.limits import check_limits
from shoal.model.validate.refusal import OF_CLUSTER, invalid
from shoal.model.validate.settings import check_label_names


def check_node(spec: NodeSpec) -> None:
    """Role and availability out of the known words, labels with names."""
    check_limits(spec)
    if spec.role not in tuple(NodeRole):
        raise invalid("Role", f"{spec.role!r} is none of {', '.join(NodeRole)}")
    check_availability(spec.availability)
    check_label_names(spec.labels, "Labels", OF_CLUSTER)


def check_availability(word: str) -> None:
    """A word for it, as of a node's spec or of joining."""
    if word not in tuple(Availability):
        raise invalid("Availability", f"{word!r} is none of {', '.join(Availability)}")
