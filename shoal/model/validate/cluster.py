"""The rules of a ClusterSpec. Pure; called by `manager.control.cluster` and by init."""

from collections.abc import Sequence
from ipaddress import IPv4Network

from shoal.model.addresses import network_of
from shoal.model.defaults import merged_cluster
from shoal.model.ids import ClusterID
from shoal.model.objects import Cluster
from shoal.model.spec.cluster import CAConfig, ClusterSpec, InitRequest, RaftConfig
from shoal.model.states import Availability
from shoal.model.validate.limits import check_limits
from shoal.model.validate.node import check_availability
from shoal.model.validate.refusal import OF_CLUSTER, invalid, unimplemented
from shoal.model.validate.settings import check_label_names

MOST_SUBNET_SIZE = 29
"""A /30 has room for one task beside the gateway."""
LEAST_HEARTBEAT = 500_000_000  # ns
MOST_HEARTBEAT = 60_000_000_000
LEAST_CERTIFICATE_LIFE = 3_600_000_000_000  # ns


def check_cluster(spec: ClusterSpec) -> None:
    """Refuse settings that are wrong or that nothing would follow."""
    check_limits(spec)
    if spec.name != "default":
        raise invalid(
            "Name", f"the only allowed name of a cluster is default, not {spec.name!r}"
        )
    check_label_names(spec.labels, "Labels", OF_CLUSTER)
    _check_heartbeat(spec.dispatcher.heartbeat_period)
    _check_raft(spec.raft)
    _check_ca(spec.ca_config)
    if spec.task_defaults.log_driver is not None:
        raise unimplemented(
            "TaskDefaults.LogDriver", "a default log driver is not supported yet"
        )


def check_init(request: InitRequest) -> None:
    """Refuse to found a cluster with settings that are wrong or that nothing would follow."""
    check_availability(request.availability or Availability.ACTIVE.value)
    if request.data_path_port and not 1024 <= request.data_path_port <= 49151:
        raise invalid("DataPathPort", f"must be 1024 to 49151, not {request.data_path_port}")
    usual = Cluster(id=ClusterID(""))
    size = request.subnet_size or usual.subnet_size
    check_pools(request.default_addr_pool, size, usual.node_pool)
    check_cluster(merged_cluster(request.spec))


def _check_heartbeat(period: int) -> None:
    """A host that is lost is noticed after two periods and a half of silence, or more."""
    if period and not LEAST_HEARTBEAT <= period <= MOST_HEARTBEAT:
        raise invalid(
            "Dispatcher.HeartbeatPeriod",
            f"must be between {LEAST_HEARTBEAT} (500ms) and {MOST_HEARTBEAT} (1m), or 0 for the"
            f" default of 1s, not {period}",
        )


def _check_raft(raft: RaftConfig) -> None:
    for name, number in (
        ("SnapshotInterval", raft.snapshot_interval),
        ("KeepOldSnapshots", raft.keep_old_snapshots or 0),
        ("LogEntriesForSlowFollowers", raft.log_entries_for_slow_followers),
        ("ElectionTick", raft.election_tick),
        ("HeartbeatTick", raft.heartbeat_tick),
    ):
        if number < 0:
            raise invalid(f"Raft.{name}", f"must not be negative: {number}")


def _check_ca(config: CAConfig) -> None:
    if config.force_rotate < 0:
        raise invalid("CAConfig.ForceRotate", f"must not be negative: {config.force_rotate}")
    if config.node_cert_expiry and config.node_cert_expiry < LEAST_CERTIFICATE_LIFE:
        raise invalid(
            "CAConfig.NodeCertExpiry",
            f"minimum certificate expiry time is 1h0m0s, not {config.node_cert_expiry} ns",
        )
    if config.external_cas:
        raise unimplemented("CAConfig.ExternalCAs", "external CAs are not supported yet")
    if bool(config.signing_ca_cert) != bool(config.signing_ca_key):
        raise invalid(
            "CAConfig.SigningCACert",
            "a CA of one's own needs both its certificate and its key (`--ca-cert` and "
            "`--ca-key`)",
        )


def check_pools(pools: Sequence[str], size: int, nodes: str) -> None:
    """Refuse pools and a subnet size that no network could be cut from.

    A pool may overlap with `nodes`, the pool of the nodes' own subnets: these are left out.
    """
    if not 0 < size <= MOST_SUBNET_SIZE:
        raise invalid(
            "SubnetSize", f"subnet size is out of range: {size} (1 to {MOST_SUBNET_SIZE})"
        )
    seen: list[IPv4Network] = []
    for position, text in enumerate(pools):
        path = f"DefaultAddrPool[{position}]"
        pool = _pool(text, path)
        if pool.prefixlen > size:
            raise invalid(
                path, f"invalid CIDR: {text}. Subnet size {size} is too small for the pool"
            )
        for other in seen:
            if pool.overlaps(other):
                raise invalid(path, f"invalid CIDR: {text} overlaps with pool {other}")
        if pool.subnet_of(IPv4Network(nodes)):
            raise invalid(path, f"{text} lies within {nodes}, where the nodes have their own")
        seen.append(pool)


def _pool(text: str, path: str) -> IPv4Network:
    try:
        pool = network_of(text)
    except ValueError as error:
        raise invalid(path, f"invalid CIDR address: {text} ({error})") from None
    if not isinstance(pool, IPv4Network):
        raise invalid(path, f"invalid CIDR address: {text} (pools are of IPv4)")
    return pool
