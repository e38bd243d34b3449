"""What one node is told: its tasks, payloads and networks, its part of the mesh, its managers.

Everything is resolved: templates expanded, secrets and configs attached, ports and addresses
given. A complete set comes first, then numbered differences
(`shoal.model.assignment.Difference`).
"""

from collections.abc import Mapping

import msgspec
from msgspec import field

from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import TunnelKey
from shoal.model.spec.service import PortConfig
from shoal.model.spec.task import ContainerSpec, LogDriver, ResourceRequirements
from shoal.model.states import TaskState


class TaskNetwork(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A network of a task: its addresses there, with prefix length, and its other names."""

    network_id: NetworkID
    addresses: tuple[str, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()
    driver_opts: Mapping[str, str] = field(default_factory=dict)


class AssignedTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One task for this node.

    `name` is the container's: `web.1.<task id>`. `ports` are host-mode ports. `labels` are the
    container's, system labels included. `registry_auth` is the base64url JSON the client sent.
    `drained`: every host that could send it new requests has stopped doing so; a task that is
    to stop waits for this, within bounds. `attached`: the container on this node, started by a
    person, that the task stands for; there is nothing to run then. `host_network`: it shares
    this node's.
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
    networks: tuple[TaskNetwork, ...] = ()
    drained: bool = False
    attached: str = ""
    host_network: bool = False


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A secret's or config's content, kept by the agent in memory only.

    Attributes:
        error: why there is none; tasks that need it are rejected with this sentence.
    """

    id: str
    data: bytes = b""
    error: str = ""


class Peer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Another node of the mesh: its data path address, its tasks' subnet, its tunnel keys."""

    node_id: NodeID
    address: str
    subnet: str
    tunnel: tuple[TunnelKey, ...] = ()


class Subnet(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A subnet of a network and its gateway address, both without meaning for routing there."""

    subnet: str
    gateway: str = ""


class AssignedNetwork(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A cluster network that this node has a task on, or `ingress`; of others it hears nothing.

    `mtu` 0 is what the underlay allows. `encrypted`: nothing of it may pass between hosts in
    clear.
    """

    id: NetworkID
    name: str
    driver: str = "overlay"
    vni: int = 0
    subnets: tuple[Subnet, ...] = ()
    mtu: int = 0
    internal: bool = False
    attachable: bool = False
    encrypted: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


class MeshPart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """This node's part of the plain cluster network.

    `prefix6`: the cluster's IPv6 /96, in whose last 32 bits stand the IPv4 addresses of it.
    `ingress`: what users know it as; None where they have taken it away.
    """

    subnet: str = ""
    port: int = 4789
    peers: tuple[Peer, ...] = ()
    prefix6: str = ""
    ingress: AssignedNetwork | None = None


class NetworkEndpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task's place on a network, on whichever node: where its packets go, what names it has.

    Attributes:
        node_id: where it runs.
        underlay: that node's data path address.
        addresses: on the network, without prefix length; at most one of each family.
        names: its container's name, hostname and aliases of its own.
        serving: names and virtual IPs lead new requests to it: it runs, is healthy and is meant
            to go on. One that stops is reachable by its address until it has ended.
    """

    network_id: NetworkID
    task_id: TaskID
    node_id: NodeID
    underlay: str
    addresses: tuple[str, ...]
    mac: str
    names: tuple[str, ...] = ()
    service_id: ServiceID = ServiceID("")
    serving: bool = False

    @property
    def key(self) -> str:
        """Unique among all endpoints."""
        return f"{self.network_id}/{self.task_id}"


class NetworkService(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A service on a network; its backends are the endpoints there that carry its id.

    `virtual_ips` without prefix length, at most one of each family; none where the mode is
    `dnsrr`. `aliases` mean the same as `name`.
    """

    network_id: NetworkID
    service_id: ServiceID
    name: str
    aliases: tuple[str, ...] = ()
    virtual_ips: tuple[str, ...] = ()
    ports: tuple[PortConfig, ...] = ()

    @property
    def key(self) -> str:
        """Unique among all services of all networks."""
        return f"{self.network_id}/{self.service_id}"


class Backend(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a serving task answers, as any host of the mesh can reach it."""

    address: str
    port: int
    node_id: NodeID = NodeID("")


class IngressPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A published port of the cluster and the serving tasks behind it.

    A host prefers its own tasks. `local_only`: it never forwards to another host.
    """

    protocol: str
    published: int
    backends: tuple[Backend, ...] = ()
    local_only: bool = False


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
    """The complete set for one node. Endpoints and services stand under their `key`.

    `trust` is what its certificate and its roots shall be, in one word; empty: as they are.
    """

    tasks: Mapping[TaskID, AssignedTask] = field(default_factory=dict)
    secrets: Mapping[str, Payload] = field(default_factory=dict)
    configs: Mapping[str, Payload] = field(default_factory=dict)
    mesh: MeshPart = MeshPart()
    ingress: IngressSet = IngressSet()
    managers: ManagerSet = ManagerSet()
    role: str = "worker"
    trust: str = ""
    networks: Mapping[NetworkID, AssignedNetwork] = field(default_factory=dict)
    endpoints: Mapping[str, NetworkEndpoint] = field(default_factory=dict)
    services: Mapping[str, NetworkService] = field(default_factory=dict)


class Difference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """From one set to the next; a complete set is the difference from nothing.

    None in `mesh`, `ingress`, `managers`, `role` and `trust` means unchanged.
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
    trust: str | None = None
    networks: tuple[AssignedNetwork, ...] = ()
    removed_networks: tuple[NetworkID, ...] = ()
    endpoints: tuple[NetworkEndpoint, ...] = ()
    removed_endpoints: tuple[str, ...] = ()
    services: tuple[NetworkService, ...] = ()
    removed_services: tuple[str, ...] = ()


class Stamp(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Fences a message to an agent: it never applies a lesser stamp than one it has applied.

    Ordered by incarnation, then leader epoch, then store revision.
    """

    incarnation: int
    epoch: int
    revision: int
