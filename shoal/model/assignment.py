"""What one node is told: its tasks, their payloads, its part of the mesh, its managers.

Everything is resolved: templates expanded, secrets and configs attached, ports and addresses
given. A complete set comes first, then numbered differences
(`shoal.model.assignment.Difference`).
"""

from collections.abc import Mapping

import msgspec
from msgspec import field

from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import ContainerSpec, LogDriver, ResourceRequirements
from shoal.model.states import TaskState


class AssignedTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One task for this node.

    `name` is the container's: `web.1.<task id>`. `ports` are host-mode ports. `labels` are the
    container's, system labels included. `registry_auth` is the base64url JSON the client sent.
    """

    id: TaskID
    service_id: ServiceID
    service_name: str
    name: str
    slot: int = 0
    desired_state: TaskState = TaskState.RUNNING
    container: ContainerSpec = ContainerSpec()
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: ResourceRequirements | None = None
    ports: tuple[PortConfig, ...] = ()
    log_driver: LogDriver | None = None
    registry_auth: str = ""


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A secret's or config's content, kept by the agent in memory only."""

    id: str
    data: bytes


class Peer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Another node of the mesh: its data path address and the subnet of its tasks."""

    node_id: NodeID
    address: str
    subnet: str


class MeshPart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """This node's part of the plain cluster network."""

    subnet: str = ""
    port: int = 4789
    peers: tuple[Peer, ...] = ()


class Backend(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a running task answers, as any host of the mesh can reach it."""

    address: str
    port: int


class IngressPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A published port of the cluster and the running tasks behind it."""

    protocol: str
    published: int
    backends: tuple[Backend, ...] = ()


class ManagerAddress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A manager that this node may be commanded by, and its gRPC address host:port."""

    node_id: NodeID
    address: str


class IngressSet(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All published ports of the cluster."""

    ports: tuple[IngressPort, ...] = ()


class ManagerSet(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All managers of the cluster."""

    managers: tuple[ManagerAddress, ...] = ()


class Assignments(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The complete set for one node."""

    tasks: Mapping[TaskID, AssignedTask] = field(default_factory=dict)
    secrets: Mapping[str, Payload] = field(default_factory=dict)
    configs: Mapping[str, Payload] = field(default_factory=dict)
    mesh: MeshPart = MeshPart()
    ingress: IngressSet = IngressSet()
    managers: ManagerSet = ManagerSet()
    role: str = "worker"


class Difference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """From one set to the next; a complete set is the difference from nothing.

    None in `mesh`, `ingress`, `managers` and `role` means unchanged.
    """

    tasks: tuple[AssignedTask, ...] = ()
    removed_tasks: tuple[TaskID, ...] = ()
    secrets: tuple[Payload, ...] = ()
    removed_secrets: tuple[str, ...] = ()
    configs: tuple[Payload, ...] = ()
    removed_configs: tuple[str, ...] = ()
    mesh: MeshPart | None = None
    ingress: IngressSet | None = None
    managers: ManagerSet | None = None
    role: str | None = None


class Stamp(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Fences a message to an agent: it never applies a lesser stamp than one it has applied.

    Ordered by incarnation, then leader epoch, then store revision.
    """

    incarnation: int
    epoch: int
    revision: int
