"""What holds where the user said nothing of the cluster."""

from shoal.common.engine_http.body import convert
from shoal.model.defaults import merged_cluster
from shoal.model.spec.cluster import ClusterSpec


def test_a_zero_given_to_init_means_the_default() -> None:
    said = {
        "Name": "mine",
        "Labels": {"a": "b"},
        "Orchestration": {"TaskHistoryRetentionLimit": 0},
        "Raft": {"SnapshotInterval": 0, "ElectionTick": 0, "HeartbeatTick": 0},
        "Dispatcher": {"HeartbeatPeriod": 0},
        "CAConfig": {"NodeCertExpiry": 0},
    }
    merged = merged_cluster(convert(said, ClusterSpec))
    usual = ClusterSpec()
    assert (merged.name, merged.labels) == ("default", {"a": "b"})
    assert merged.orchestration.task_history_retention_limit == 0
    assert (merged.raft, merged.dispatcher) == (usual.raft, usual.dispatcher)
    assert merged.ca_config == usual.ca_config
    kept = merged_cluster(convert({"Raft": {"SnapshotInterval": 7}}, ClusterSpec)).raft
    assert (kept.snapshot_interval, kept.election_tick) == (7, 10)
