"""The rules of a ClusterSpec. Pure; called by `manager.control.cluster` and by init."""

from shoal.model.spec.cluster import CAConfig, ClusterSpec
from shoal.model.validate.limits import check_limits
from shoal.model.validate.refusal import invalid, unimplemented

LEAST_CERTIFICATE_LIFE = 3_600_000_000_000  # ns


def check_cluster(spec: ClusterSpec) -> None:
    """Refuse settings that are wrong or that nothing would follow."""
    check_limits(spec)
    if spec.name != "default":
        raise invalid(
            "Name", f"the only allowed name of a cluster is default, not {spec.name!r}"
        )
    if spec.dispatcher.heartbeat_period < 0:
        raise invalid(
            "Dispatcher.HeartbeatPeriod",
            f"must not be negative: {spec.dispatcher.heartbeat_period}",
        )
    _check_ca(spec.ca_config)
    if spec.task_defaults.log_driver is not None:
        raise unimplemented(
            "TaskDefaults.LogDriver", "a default log driver is not supported yet"
        )
    if spec.encryption_config.auto_lock_managers:
        raise unimplemented(
            "EncryptionConfig.AutoLockManagers", "autolock is not supported yet"
        )


def _check_ca(config: CAConfig) -> None:
    if config.node_cert_expiry and config.node_cert_expiry < LEAST_CERTIFICATE_LIFE:
        raise invalid(
            "CAConfig.NodeCertExpiry",
            f"minimum certificate expiry time is 1h0m0s, not {config.node_cert_expiry} ns",
        )
    if config.external_cas:
        raise unimplemented("CAConfig.ExternalCAs", "external CAs are not supported yet")
    if config.signing_ca_cert or config.signing_ca_key:
        raise unimplemented(
            "CAConfig.SigningCACert", "bringing one's own CA is not supported yet"
        )
