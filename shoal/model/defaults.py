"""What holds where the user said nothing: effective restart, update and mode settings. Pure.

The numbers are Docker's (docker-swarm.md 1.2, 1.4, 1.6). Called by deciders and by the API's
`insertDefaults`; checking what the user did say is left to validation.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from types import NoneType
from typing import Any, get_args

import msgspec

from shoal.model.objects import Cluster
from shoal.model.spec.cluster import ClusterSpec
from shoal.model.spec.network import HOST_NETWORK
from shoal.model.spec.service import EndpointSpec, PortConfig, ServiceSpec, UpdateConfig
from shoal.model.spec.task import TaskSpec
from shoal.model.states import FailureAction, RestartCondition, UpdateOrder

DEFAULT_REPLICAS = 1
DEFAULT_RESTART_DELAY = timedelta(seconds=5)
DEFAULT_MONITOR = timedelta(seconds=5)
DEFAULT_STOP_GRACE = timedelta(seconds=10)
DEFAULT_HISTORY = 5
DEFAULT_HEARTBEAT = timedelta(seconds=1)
DEFAULT_UPDATE_DEADLINE = timedelta(minutes=5)
UPDATE_DEADLINE_LABEL = "shoal.update.deadline"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}


def is_on_host_network(template: TaskSpec) -> bool:
    """Whether its tasks share the network of the node that they run on."""
    return any(one.target == HOST_NETWORK for one in template.networks)


class Mode(StrEnum):
    """The four service modes."""

    REPLICATED = "replicated"
    GLOBAL = "global"
    REPLICATED_JOB = "replicated-job"
    GLOBAL_JOB = "global-job"


def mode_of(spec: ServiceSpec) -> Mode:
    """The mode of a service; replicated where none is set."""
    if spec.mode.global_ is not None:
        return Mode.GLOBAL
    if spec.mode.replicated_job is not None:
        return Mode.REPLICATED_JOB
    if spec.mode.global_job is not None:
        return Mode.GLOBAL_JOB
    return Mode.REPLICATED


def is_job(spec: ServiceSpec) -> bool:
    """Whether its tasks run to completion."""
    return mode_of(spec) in (Mode.REPLICATED_JOB, Mode.GLOBAL_JOB)


def replicas_of(spec: ServiceSpec) -> int:
    """Wanted tasks of a replicated service."""
    replicated = spec.mode.replicated
    if replicated is None or replicated.replicas is None:
        return DEFAULT_REPLICAS
    return replicated.replicas


class JobSize(msgspec.Struct, frozen=True):
    """How many completions a replicated job needs and how many tasks run at a time."""

    completions: int
    concurrent: int


def job_size(spec: ServiceSpec) -> JobSize:
    """`MaxConcurrent` is 1 by default, `TotalCompletions` is `MaxConcurrent`."""
    job = spec.mode.replicated_job
    concurrent = 1 if job is None or job.max_concurrent is None else job.max_concurrent
    total = (
        concurrent if job is None or job.total_completions is None else job.total_completions
    )
    return JobSize(completions=total, concurrent=concurrent or total)


def nanoseconds(value: int) -> timedelta:
    """A duration of the API as one of Python's."""
    return timedelta(microseconds=value / 1000)


class RestartRule(msgspec.Struct, frozen=True, kw_only=True):
    """An effective restart policy; `window` zero looks at all attempts."""

    condition: RestartCondition = RestartCondition.ANY
    delay: timedelta = DEFAULT_RESTART_DELAY
    max_attempts: int = 0
    window: timedelta = timedelta()


def restart_rule(spec: ServiceSpec) -> RestartRule:
    """The restart policy of a service's tasks; for jobs `any` means on-failure."""
    policy = spec.task_template.restart_policy
    condition = RestartCondition.ANY
    if policy is not None and policy.condition:
        condition = RestartCondition(policy.condition)
    if condition is RestartCondition.ANY and is_job(spec):
        condition = RestartCondition.ON_FAILURE
    if policy is None:
        return RestartRule(condition=condition)
    delay = DEFAULT_RESTART_DELAY if policy.delay is None else nanoseconds(policy.delay)
    return RestartRule(
        condition=condition,
        delay=delay,
        max_attempts=policy.max_attempts or 0,
        window=nanoseconds(policy.window or 0),
    )


class UpdateRule(msgspec.Struct, frozen=True, kw_only=True):
    """How an update or rollback proceeds. Parallelism 0 is all at once.

    A slot whose new task is not running after `deadline` counts as failed.
    """

    parallelism: int = 1
    delay: timedelta = timedelta()
    failure_action: FailureAction = FailureAction.PAUSE
    monitor: timedelta = DEFAULT_MONITOR
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.STOP_FIRST
    deadline: timedelta = DEFAULT_UPDATE_DEADLINE


def update_rule(spec: ServiceSpec, *, rollback: bool = False) -> UpdateRule:
    """The effective update or rollback settings.

    The deadline is five minutes and the monitor period, or the label `shoal.update.deadline`.
    """
    config = spec.rollback_config if rollback else spec.update_config
    given = config if config is not None else UpdateConfig(parallelism=1)
    monitor = nanoseconds(given.monitor) if given.monitor else DEFAULT_MONITOR
    said = _duration(spec.labels.get(UPDATE_DEADLINE_LABEL, ""))
    return UpdateRule(
        parallelism=given.parallelism,
        delay=nanoseconds(given.delay),
        failure_action=FailureAction(given.failure_action or FailureAction.PAUSE),
        monitor=monitor,
        max_failure_ratio=given.max_failure_ratio,
        order=UpdateOrder(given.order or UpdateOrder.STOP_FIRST),
        deadline=said if said is not None else DEFAULT_UPDATE_DEADLINE + monitor,
    )


def _duration(text: str) -> timedelta | None:
    """`90s`, `10m`; None for what is no duration."""
    found = _DURATION.fullmatch(text.strip())
    return float(found[1]) * _UNIT[found[2]] if found is not None else None


def stop_grace(spec: TaskSpec) -> timedelta:
    """Time between the stop signal and the kill."""
    container = spec.container_spec
    if container is None or container.stop_grace_period is None:
        return DEFAULT_STOP_GRACE
    return nanoseconds(container.stop_grace_period)


def endpoint_of(spec: ServiceSpec) -> EndpointSpec:
    """The endpoint spec, empty where absent."""
    return spec.endpoint_spec if spec.endpoint_spec is not None else EndpointSpec()


def protocol_of(port: PortConfig) -> str:
    """The protocol of a port, tcp where absent."""
    return port.protocol or "tcp"


def is_host_port(port: PortConfig) -> bool:
    """Whether a port is published on the task's host alone."""
    return port.publish_mode == "host"


def mesh_ports(ports: Iterable[PortConfig]) -> tuple[PortConfig, ...]:
    """Those of them that are published on every host."""
    return tuple(port for port in ports if not is_host_port(port))


def merged_cluster(spec: ClusterSpec) -> ClusterSpec:
    """The spec given to init over the defaults, all through: a zero there means the default.

    What can be absent (the history limit) is zero only if it was said to be.
    """
    merged: ClusterSpec = _over(spec, ClusterSpec())
    return msgspec.structs.replace(merged, name=ClusterSpec().name)


def _over(given: Any, default: Any) -> Any:
    changes: dict[str, Any] = {}
    for field in msgspec.structs.fields(given):
        value, usual = getattr(given, field.name), getattr(default, field.name)
        if isinstance(value, msgspec.Struct) and isinstance(usual, msgspec.Struct):
            changes[field.name] = _over(value, usual)
        elif value is None or (not value and NoneType not in get_args(field.type)):
            changes[field.name] = usual
    return msgspec.structs.replace(given, **changes)


def history_limit(cluster: Cluster | None) -> int:
    """Tasks kept per slot; negative keeps all."""
    if cluster is None or cluster.spec.orchestration.task_history_retention_limit is None:
        return DEFAULT_HISTORY
    return cluster.spec.orchestration.task_history_retention_limit


def heartbeat_of(cluster: Cluster | None) -> timedelta:
    """How often an agent shall be heard. Two of them missed are the end of its session."""
    period = cluster.spec.dispatcher.heartbeat_period if cluster is not None else 0
    return timedelta(microseconds=period / 1000) if period else DEFAULT_HEARTBEAT
