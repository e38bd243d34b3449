"""Services as `GET /services` shows them. Pure."""

import msgspec

from manager.api.wire.envelope import Json, envelope, instant
from manager.control.listing import Counts
from shoal.model.defaults import is_job
from shoal.model.objects import Endpoint, Service
from shoal.model.spec.service import ServiceSpec, UpdateConfig
from shoal.model.spec.task import (
    ContainerSpec,
    DNSConfig,
    Placement,
    ResourceRequirements,
    RestartPolicy,
)

_SECOND = 1_000_000_000
_DEFAULT_UPDATE = UpdateConfig(
    parallelism=1, failure_action="pause", monitor=5 * _SECOND, order="stop-first"
)
_DEFAULT_RESTART = RestartPolicy(condition="any", delay=5 * _SECOND, max_attempts=0)
_GRACE = 10 * _SECOND


def service_json(
    service: Service, *, defaults: bool = False, counts: Counts | None = None
) -> Json:
    """The whole service; `defaults` fills what the user left out, `counts` its tasks."""
    out = envelope(service)
    out["Spec"] = with_defaults(service.spec) if defaults else service.spec
    if service.previous_spec is not None:
        out["PreviousSpec"] = service.previous_spec
    out["Endpoint"] = _endpoint(service.endpoint, service.spec)
    if service.update_status is not None:
        status = service.update_status
        shown: Json = {"State": status.state.value, "StartedAt": status.started_at}
        if status.completed_at is not None:
            shown["CompletedAt"] = status.completed_at
        out["UpdateStatus"] = {**shown, "Message": status.message}
    if counts is not None:
        out["ServiceStatus"] = {
            "RunningTasks": counts.running,
            "DesiredTasks": counts.desired,
            "CompletedTasks": counts.completed,
        }
    if service.job_status is not None:
        out["JobStatus"] = {
            "JobIteration": {"Index": service.job_status.iteration},
            "LastExecution": instant(service.job_status.last_execution),
        }
    return out


def _endpoint(endpoint: Endpoint, spec: ServiceSpec) -> Json:
    out: Json = {"Spec": spec.endpoint_spec or {}}
    if endpoint.ports:
        out["Ports"] = endpoint.ports
    if endpoint.virtual_ips:
        out["VirtualIPs"] = [
            {"NetworkID": ip.network_id, "Addr": ip.addr} for ip in endpoint.virtual_ips
        ]
    return out


def with_defaults(spec: ServiceSpec) -> ServiceSpec:
    """The spec with whole blocks that are absent, and absent durations, as they act."""
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    if container.stop_grace_period is None:
        container = msgspec.structs.replace(container, stop_grace_period=_GRACE)
    if container.dns_config is None:
        container = msgspec.structs.replace(container, dns_config=DNSConfig())
    template = msgspec.structs.replace(
        template,
        container_spec=container,
        resources=template.resources or ResourceRequirements(),
        restart_policy=_restart(template.restart_policy),
        placement=template.placement or Placement(),
    )
    update = None if is_job(spec) else _DEFAULT_UPDATE
    return msgspec.structs.replace(
        spec,
        task_template=template,
        update_config=_monitored(spec.update_config) or update,
        rollback_config=_monitored(spec.rollback_config) or update,
    )


def _monitored(config: UpdateConfig | None) -> UpdateConfig | None:
    if config is None or config.monitor:
        return config
    return msgspec.structs.replace(config, monitor=_DEFAULT_UPDATE.monitor)


def _restart(policy: RestartPolicy | None) -> RestartPolicy:
    if policy is None:
        return _DEFAULT_RESTART
    return RestartPolicy(
        condition=policy.condition or "any",
        delay=policy.delay if policy.delay is not None else 5 * _SECOND,
        max_attempts=policy.max_attempts or 0,
        window=policy.window,
    )
