"""The cluster's objects as managers keep them: identity, the user's spec, observed facts.

An object may be stored under several keys with one writer each (docs/adr: one key a writer);
the store joins them, deciders and REST see them whole:

    cluster            Cluster               control, leader
    service/<id>       Service               control, leader
    spec/<svc>/<n>     ServiceSpec           with the service's change; gone with its last task
    task/<id>          Task less its report  leader
    status/<id>        TaskStatus            the dispatcher that holds the node's session
    node/<id>          Node less the below   control, leader
    describe/<id>      NodeReport            the dispatcher
    session/<id>       NodeSession           the dispatcher, under its manager's lease
    applied/<id>       Applied               the dispatcher of that manager, under its lease

Instants are aware UTC datetimes, durations integer nanoseconds, sizes bytes. `version` is the
greatest store revision of the parts; `guard` the revision of the part that writers compare.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import field
from typing_extensions import override

from shoal.model.ids import ClusterID, ConfigID, NetworkID, NodeID, SecretID, ServiceID, TaskID
from shoal.model.spec.cluster import ClusterSpec
from shoal.model.spec.network import NetworkSpec
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import EndpointSpec, PortConfig, ServiceSpec
from shoal.model.spec.task import (
    GenericResource,
    NetworkAttachmentConfig,
    Platform,
    Resources,
    TaskSpec,
)
from shoal.model.states import (
    NodeRole,
    NodeState,
    RotationStep,
    TaskState,
    UpdateState,
    is_terminal,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Object(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What every stored object has. Version and guard are the store's to write."""

    version: int = 0
    guard: int = 0
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH


class Cluster(Object, frozen=True, kw_only=True, gc=False):
    """The one cluster object.

    `sealed` holds CA keys, join tokens and unlock key, encrypted with the cluster's data key
    (`manager.store.sealing`); `incarnation` grows when the cluster is forced anew or restored,
    which last happened at `forced_at`. `trust` is the word for what every node's certificate
    shall be (`shoal.common.certificates.trust_word`); while the CA is changed for `next_root`,
    `rotation` says how far it is.
    """

    id: ClusterID
    spec: ClusterSpec = ClusterSpec()
    root_ca: str = ""
    etcd_ca: str = ""
    sealed: bytes = b""
    incarnation: int = 1
    forced_at: datetime | None = None
    default_addr_pool: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    data_path_port: int = 4789
    node_pool: str = "10.128.0.0/9"  # each node's /24 for its tasks' addresses is cut from it
    trust: str = ""
    next_root: str = ""
    rotation: RotationStep = RotationStep.NONE


class EngineDescription(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False
):
    """The engine of a node: version, labels set on the host, plugins as (type, name)."""

    engine_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[tuple[str, str], ...] = ()


class NodeDescription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a node is, as it reports itself."""

    hostname: str = ""
    platform: Platform = Platform()
    resources: Resources = Resources()
    engine: EngineDescription = EngineDescription()


class TunnelKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A node's public key for encrypted networks (base64) and the UDP port it answers on.

    A node that changes its key has two for a while, in slots 0 and 1.
    """

    slot: int
    public_key: str
    port: int


class TakenPort(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A published port of the cluster that something else has on a node; `reason` says what."""

    protocol: str
    port: int
    reason: str

    @override
    def __str__(self) -> str:
        """Begins a sentence about one host."""
        return f"port {self.port}/{self.protocol} is taken ({self.reason})"


class NodeReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Description and addresses, written when they change.

    `left`: it is the last word of a node that has left the cluster.
    """

    description: NodeDescription = NodeDescription()
    addr: str = ""
    data_path_addr: str = ""
    tunnel: tuple[TunnelKey, ...] = ()
    taken_ports: tuple[TakenPort, ...] = ()
    trust: str = ""
    left: bool = False


class NodeSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Which manager serves the node's agent now."""

    manager: NodeID
    session: str
    since: datetime = EPOCH


class Applied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a manager says of tasks that stop on nodes with sessions elsewhere.

    `tasks`: those that all its own sessions, as of `revision`, send no new requests to.
    """

    revision: int = 0
    tasks: tuple[TaskID, ...] = ()


class ManagerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A manager node's address (host:port of its gRPC) and its store member's id (hex)."""

    addr: str = ""
    member: str = ""
    join_addr: str = ""


class Node(Object, frozen=True, kw_only=True, gc=False):
    """A host of the cluster. `role` is observed (its certificate), `spec.role` wished.

    `lost_since`: since when it has had no session that counts; it is down once it has had none
    at all for the grace.
    `refused_at`: when its host last refused a connection to its agent, as a living one does
    whose daemons are away; a later end of its grace.
    `doubted`: the session that does not count, because its manager answers no more.
    `spec_since`: the revision since which, as far as a manager's memory goes back, its spec is
    what it is. Not stored.
    """

    id: NodeID
    spec: NodeSpec = NodeSpec()
    role: NodeRole = NodeRole.WORKER
    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    down_since: datetime | None = None
    lost_since: datetime | None = None
    refused_at: datetime | None = None
    doubted: str = ""
    subnet: str = ""
    key_digest: str = ""  # SHA-256 of the public key it joined with, hex
    joined_from: str = ""  # its address when it joined
    manager: ManagerInfo | None = None
    description: NodeDescription | None = None
    addr: str = ""
    data_path_addr: str = ""
    tunnel: tuple[TunnelKey, ...] = ()
    taken_ports: tuple[TakenPort, ...] = ()
    trust: str = ""
    left: bool = False
    session: NodeSession | None = None
    spec_since: int = 0
    applied: Applied | None = None

    @property
    def heard(self) -> bool:
        """Whether it has a session that counts."""
        return self.session is not None and self.session.session != self.doubted

    @property
    def role_told(self) -> NodeRole:
        """The role it shall act in: a manager until it has left the store's members."""
        wanted = self.spec.role == NodeRole.MANAGER.value
        return NodeRole.MANAGER if wanted or self.manager is not None else NodeRole.WORKER


class VirtualIP(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A service's address on a network, with its prefix length."""

    network_id: NetworkID
    addr: str


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What became of an EndpointSpec: published ports are filled in."""

    spec: EndpointSpec = EndpointSpec()
    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[VirtualIP, ...] = ()


class UpdateStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where an update stands, as the user sees it."""

    state: UpdateState
    started_at: datetime
    completed_at: datetime | None = None
    message: str = ""


class UpdatedSlot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One slot that an update has begun.

    Attributes:
        task: the first task of the new version in the slot.
        begun_at: when it was made; after the update's deadline it counts as failed.
        settled_at: when it was seen running, ended or too late; the delay counts from here, and
            until the monitor period has passed an early end counts as a failure.
    """

    task: TaskID
    begun_at: datetime
    settled_at: datetime | None = None


class UpdateProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the updater must remember between its steps.

    Attributes:
        spec_version: the version the tasks are being brought to.
        total: slots that were dirty when it began; the ratio's denominator.
        failed: ids of updated tasks that count as failures.
        slots: slots begun and still watched.
    """

    spec_version: int
    total: int = 0
    failed: tuple[TaskID, ...] = ()
    slots: tuple[UpdatedSlot, ...] = ()


class JobStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Iteration of a job service and when it was begun."""

    iteration: int = 0
    last_execution: datetime | None = None


class Service(Object, frozen=True, kw_only=True, gc=False):
    """A service. `spec_version` grows by one with each accepted change of the spec."""

    id: ServiceID
    spec: ServiceSpec
    spec_version: int = 1
    previous_spec: ServiceSpec | None = None
    previous_spec_version: int = 0
    endpoint: Endpoint = Endpoint()
    update_status: UpdateStatus | None = None
    update: UpdateProgress | None = None
    job_status: JobStatus | None = None
    pending_delete: bool = False
    registry_auth: bytes = b""  # sealed


class ServiceVersion(Object, frozen=True, kw_only=True, gc=False):
    """A spec tasks are made from; written with its service, reaped after its last task."""

    id: str  # "<service id>/<number>"
    service_id: ServiceID
    number: int
    spec: ServiceSpec


class ContainerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The container of a task, as its agent reports it."""

    container_id: str = ""
    pid: int = 0
    exit_code: int = 0


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was observed of a task.

    `message` says what happens and why it waits, `err` why it failed; `addresses` are those of
    its container that other hosts can reach; `ports` the host-mode ports it got.
    """

    state: TaskState = TaskState.NEW
    timestamp: datetime = EPOCH
    message: str = ""
    err: str = ""
    container: ContainerStatus | None = None
    addresses: tuple[str, ...] = ()
    ports: tuple[PortConfig, ...] = ()


class NetworkAttachment(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False
):
    """A network of a task and its addresses there, with prefix length."""

    network_id: NetworkID
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Attached(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A person's container on a node, which wants to be on a network.

    `addresses` are those it asks for, without prefix length; of a family without one, any.
    """

    network_id: NetworkID
    container_id: str
    container_name: str
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Task(Object, frozen=True, kw_only=True, gc=False):
    """One attempt to run one slot of a service on one node; never reused, never moved.

    `slot` is 1.. for replicated services, 0 for global ones (the node stands for the slot).
    `service_spec` is shared by all tasks of the same (service, spec_version).
    `start_after`: a task whose desired state is READY goes on to RUNNING no earlier.
    `replaces`: the task of the same slot that it follows. It waits for the end of one that is
    to stop, and ends one that is still wanted when it runs itself (start-first).
    `reason`: why the leader made it, or why it is to stop.
    `attached`: it stands for a person's container, has no service and nothing to run: its node
    made it, and it lasts until that node wants it no more or is removed.
    """

    id: TaskID
    service_id: ServiceID
    spec_version: int
    service_spec: ServiceSpec
    slot: int = 0
    node_id: NodeID | None = None
    desired_state: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    networks: tuple[NetworkAttachment, ...] = ()
    generic_resources: tuple[GenericResource, ...] = ()
    job_iteration: int | None = None
    start_after: datetime | None = None
    replaces: TaskID | None = None
    reason: str = ""
    attached: Attached | None = None

    @property
    def spec(self) -> TaskSpec:
        """The template it was made from."""
        return self.service_spec.task_template

    @property
    def name(self) -> str:
        """`web.1.<id>`; a global service's tasks carry their node's id for the slot.

        One that stands for a person's container has that one's name.
        """
        if self.attached is not None:
            return self.attached.container_name
        return f"{self.service_spec.name}.{self.slot or self.node_id}.{self.id}"

    @property
    def network_wishes(self) -> tuple[NetworkAttachmentConfig, ...]:
        """The networks, by id, that it is to have a place on."""
        if self.attached is None:
            return self.spec.networks
        target, aliases = self.attached.network_id, self.attached.aliases
        return (NetworkAttachmentConfig(target=target, aliases=aliases),)

    @property
    def ended(self) -> bool:
        """Whether it was observed to have ended."""
        return is_terminal(self.status.state)

    @property
    def wanted(self) -> bool:
        """Whether it is still desired to run (or to become ready)."""
        return self.desired_state <= TaskState.COMPLETE


class NetworkPool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A subnet that a network was given, and what of it is not for its tasks.

    `ip_range`: the part that addresses come from, if not all of it; `reserved`: addresses that
    the user keeps for others, by name.
    """

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    reserved: Mapping[str, str] = field(default_factory=dict)


class Network(Object, frozen=True, kw_only=True, gc=False):
    """A cluster network. VNI and pools are the allocator's, one pool a family.

    `ingress` stands for the gateway network, that each node has a part of; its pool is what the
    nodes' subnets are cut from. `pending_delete`: nobody sees it any more; it goes when the
    last task on it has ended.
    """

    id: NetworkID
    spec: NetworkSpec
    vni: int = 0
    pools: tuple[NetworkPool, ...] = ()
    pending_delete: bool = False

    @property
    def name(self) -> str:
        """Its name, of the spec."""
        return self.spec.name

    @property
    def allocated(self) -> bool:
        """Whether it has what tasks need of it."""
        return bool(self.pools)


class Secret(Object, frozen=True, kw_only=True, gc=False):
    """A secret; `sealed` is its payload under the cluster's data key."""

    id: SecretID
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    sealed: bytes = b""
    templating: str = ""


class Config(Object, frozen=True, kw_only=True, gc=False):
    """A config and its payload."""

    id: ConfigID
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    templating: str = ""


StoredObject = Cluster | Node | Service | ServiceVersion | Task | Network | Secret | Config
