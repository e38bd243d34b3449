"""What the user asked of a node."""

from collections.abc import Mapping

from shoal.model.names import Wire, always


class NodeSpec(Wire, frozen=True, kw_only=True):
    """Role and availability as the user wants them; the observed role may lag behind."""

    name: str = ""
    labels: Mapping[str, str] = always({})
    role: str = always("worker")
    availability: str = always("active")
