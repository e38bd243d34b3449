"""What the user asked of the cluster: the Spec of `GET /swarm` (docker-swarm.md 1.1, 3.1)."""

from collections.abc import Mapping

from msgspec import field

from shoal.model.names import Wire, always
from shoal.model.spec.task import LogDriver


class OrchestrationConfig(Wire, frozen=True, kw_only=True):
    """Ended tasks kept per slot; negative keeps all, absent is 5."""

    task_history_retention_limit: int | None = always(5)


class RaftConfig(Wire, frozen=True, kw_only=True):
    """Kept because clients send it; the store is etcd, whose own settings rule."""

    snapshot_interval: int = always(10000)
    keep_old_snapshots: int | None = always(0)
    log_entries_for_slow_followers: int = always(500)
    election_tick: int = always(10)
    heartbeat_tick: int = always(1)


class DispatcherConfig(Wire, frozen=True, kw_only=True):
    """How often agents are heard, in ns; 0 is the default. Swarm's default is 5 s."""

    heartbeat_period: int = always(1_000_000_000)


class ExternalCA(Wire, frozen=True, kw_only=True):
    """A certificate authority outside the cluster."""

    protocol: str = ""
    url: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    ca_cert: str = ""


class CAConfig(Wire, frozen=True, kw_only=True):
    """Validity of node certificates in ns; rotation when `ForceRotate` grows."""

    node_cert_expiry: int = always(7_776_000_000_000_000)
    external_cas: tuple[ExternalCA, ...] = ()
    signing_ca_cert: str = ""
    signing_ca_key: str = ""
    force_rotate: int = 0


class TaskDefaults(Wire, frozen=True, kw_only=True):
    """What new tasks get when their service says nothing."""

    log_driver: LogDriver | None = None


class EncryptionConfig(Wire, frozen=True, kw_only=True):
    """Autolock: managers need a key from a person after their host has restarted."""

    auto_lock_managers: bool = always(False)


class ClusterSpec(Wire, frozen=True, kw_only=True):
    """The cluster's settings."""

    name: str = always("default")
    labels: Mapping[str, str] = always({})
    orchestration: OrchestrationConfig = always(OrchestrationConfig())
    raft: RaftConfig = always(RaftConfig())
    dispatcher: DispatcherConfig = always(DispatcherConfig())
    ca_config: CAConfig = always(CAConfig())
    task_defaults: TaskDefaults = always(TaskDefaults())
    encryption_config: EncryptionConfig = always(EncryptionConfig())


class InitRequest(Wire, frozen=True, kw_only=True):
    """The body of `POST /swarm/init` (docker-swarm.md 2.2).

    `force_new_cluster` on a host in no cluster asks for what happens there anyway.
    """

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    availability: str = ""
    spec: ClusterSpec = ClusterSpec()


class UnlockRequest(Wire, frozen=True, kw_only=True):
    """The body of `POST /swarm/unlock`, and the answer of `GET /swarm/unlockkey`."""

    unlock_key: str = always("")
