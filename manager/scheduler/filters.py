"""May a task of a group run on a node, and if not, why not. Pure.

Each filter is a check that returns the sentence of its refusal (docker-swarm.md 3.3); they are
asked in order and the first refusal counts. A `Demand` is worked out once a group.
"""

from collections.abc import Callable, Mapping

import msgspec

from manager.scheduler.nodeinfo import Load
from shoal.model.constraints import Constraint, first_unmet, parse_all
from shoal.model.defaults import endpoint_of, is_host_port, protocol_of
from shoal.model.errors import InvalidArgument
from shoal.model.ids import NodeID
from shoal.model.objects import Node, NodeDescription
from shoal.model.resources import missing, reserved
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import Placement, Platform, Resources
from shoal.model.states import Availability, NodeState

_NO_DESCRIPTION = NodeDescription()
_NO_PLACEMENT = Placement()
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What the tasks of one (service, spec version) ask of a node.

    `bad` is the sentence of a placement that cannot be read. `copies` are the service's tasks
    of this spec on each node; only kept where there is a maximum.
    """

    resources: Resources
    constraints: tuple[Constraint, ...] = ()
    platforms: tuple[Platform, ...] = ()
    host_ports: frozenset[tuple[str, int]] = frozenset()
    max_replicas: int = 0
    copies: Mapping[NodeID, int] = msgspec.field(default_factory=dict)
    bad: str = ""


def demand_of(spec: ServiceSpec, copies: Mapping[NodeID, int]) -> Demand:
    """What tasks of a spec ask of a node."""
    placement = spec.task_template.placement or _NO_PLACEMENT
    constraints: tuple[Constraint, ...] = ()
    bad = ""
    try:
        constraints = parse_all(placement.constraints)
    except InvalidArgument as error:
        bad = str(error)
    return Demand(
        resources=reserved(spec.task_template),
        constraints=constraints,
        platforms=placement.platforms,
        host_ports=frozenset(
            (protocol_of(port), port.published_port)
            for port in endpoint_of(spec).ports
            if is_host_port(port) and port.published_port
        ),
        max_replicas=placement.max_replicas,
        copies=copies,
        bad=bad,
    )


Filter = Callable[[Demand, Node, Load], str | None]


def ready(demand: Demand, node: Node, load: Load) -> str | None:
    """The node is heard of and takes tasks."""
    del demand, load
    if node.state is not NodeState.READY:
        return f"node is {node.state.value}"
    if node.lost_since is not None:
        return "node has lost its session"
    match node.spec.availability:
        case Availability.PAUSE:
            return "node is paused"
        case Availability.DRAIN:
            return "node is drained"
        case _:
            return None


def subnet(demand: Demand, node: Node, load: Load) -> str | None:
    """The node has addresses for tasks."""
    del demand, load
    return None if node.subnet else "no free subnet in the cluster's node pool"


def resources(demand: Demand, node: Node, load: Load) -> str | None:
    """What the task reserves is left on the node."""
    wanted = demand.resources
    if not (wanted.nano_cpus or wanted.memory_bytes or wanted.generic_resources):
        return None
    return missing(wanted, load.available(node, generic=bool(wanted.generic_resources)))


def constraints(demand: Demand, node: Node, load: Load) -> str | None:
    """The node matches every placement constraint."""
    del load
    if demand.bad:
        return demand.bad
    unmet = first_unmet(demand.constraints, node)
    return f"constraint {unmet.text}" if unmet is not None else None


def platform(demand: Demand, node: Node, load: Load) -> str | None:
    """The image runs on the node's architecture and operating system."""
    del load
    if not demand.platforms:
        return None
    has = (node.description or _NO_DESCRIPTION).platform
    if any(_same_platform(wanted, has) for wanted in demand.platforms):
        return None
    return f"image is not made for {has.os or '?'}/{_architecture(has) or '?'}"


def _same_platform(wanted: Platform, has: Platform) -> bool:
    same_os = not wanted.os or wanted.os.lower() == has.os.lower()
    return same_os and (not wanted.architecture or _architecture(wanted) == _architecture(has))


def _architecture(platform: Platform) -> str:
    name = platform.architecture.lower()
    return _ARCHITECTURES.get(name, name)


def host_port(demand: Demand, node: Node, load: Load) -> str | None:
    """The host-mode ports are free on the node."""
    for port in sorted(demand.host_ports):
        if load.holds_port(node.id, port):
            return f"host-mode port {port[1]}/{port[0]} in use"
    return None


def max_replicas(demand: Demand, node: Node, load: Load) -> str | None:
    """The node has fewer tasks of this spec than its maximum; older ones do not count."""
    del load
    if demand.max_replicas and demand.copies.get(node.id, 0) >= demand.max_replicas:
        return f"max replicas per node ({demand.max_replicas}) reached"
    return None


FILTERS: tuple[Filter, ...] = (
    ready,
    subnet,
    resources,
    constraints,
    platform,
    host_port,
    max_replicas,
)
