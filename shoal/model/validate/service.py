"""The rules of a ServiceSpec: name, mode, update configuration, ports. Pure.

The task template has its own module, `task`; what spans objects (names, published ports) is
`manager.control`'s. Called there before anything is written.
"""

import re
from collections import Counter

from shoal.model.defaults import is_job
from shoal.model.spec.service import (
    EndpointSpec,
    PortConfig,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.states import FailureAction, UpdateOrder
from shoal.model.validate.limits import check_limits
from shoal.model.validate.refusal import OF_CLUSTER, invalid, unimplemented
from shoal.model.validate.settings import check_label_names
from shoal.model.validate.task import check_networks, check_task

NAME_LENGTH = 63
MOST_REPLICAS = 1_000_000
_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*", re.ASCII)
_MODES = ("Replicated", "Global", "ReplicatedJob", "GlobalJob")
_PROTOCOLS = ("tcp", "udp", "sctp")
_PUBLISH_MODES = ("ingress", "host")
_RESOLUTION_MODES = ("vip", "dnsrr")


def check_service(spec: ServiceSpec) -> None:
    """Refuse a spec that no cluster could run, or that this one cannot run yet."""
    check_limits(spec)
    check_service_name(spec.name)
    check_label_names(spec.labels, "Labels", OF_CLUSTER)
    check_mode(spec.mode)
    check_task(spec.task_template, spec.name, spec.labels)
    check_networks(spec.networks, "Networks")
    if is_job(spec) and spec.update_config is not None:
        raise invalid(
            "UpdateConfig",
            "a job has none: changing it, or `service update --force`, runs it anew",
        )
    if spec.update_config is not None:
        _check_update(spec.update_config, "UpdateConfig", tuple(FailureAction))
    if spec.rollback_config is not None:
        actions = (FailureAction.PAUSE, FailureAction.CONTINUE)
        _check_update(spec.rollback_config, "RollbackConfig", actions)
    if spec.endpoint_spec is not None:
        check_endpoint(spec.endpoint_spec)


def check_service_name(name: str) -> None:
    """A name that can be a host name."""
    if not name:
        raise invalid("Name", "a name must be given")
    if len(name) > NAME_LENGTH:
        raise invalid("Name", f"must be {NAME_LENGTH} characters or fewer, not {len(name)}")
    if not _NAME.fullmatch(name):
        raise invalid(
            "Name",
            f"{name!r} is not valid as a DNS name component: letters, digits, '-' and '_',"
            " beginning and ending with a letter or digit",
        )


def check_mode(mode: ServiceMode) -> None:
    """Exactly one mode, or none; no impossible numbers."""
    given = (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)
    named = [name for name, value in zip(_MODES, given, strict=True) if value is not None]
    if len(named) > 1:
        raise invalid("Mode", f"must specify only one service mode, not {', '.join(named)}")
    job = mode.replicated_job
    for path, count in (
        ("Replicated.Replicas", mode.replicated.replicas if mode.replicated else None),
        ("ReplicatedJob.MaxConcurrent", job.max_concurrent if job else None),
        ("ReplicatedJob.TotalCompletions", job.total_completions if job else None),
    ):
        if count is not None and not 0 <= count <= MOST_REPLICAS:
            raise invalid(f"Mode.{path}", f"must be between 0 and {MOST_REPLICAS}, not {count}")


def _check_update(config: UpdateConfig, path: str, actions: tuple[FailureAction, ...]) -> None:
    for name, value in (
        ("Parallelism", config.parallelism),
        ("Delay", config.delay),
        ("Monitor", config.monitor),
    ):
        if value < 0:
            raise invalid(f"{path}.{name}", f"must not be negative, not {value}")
    if not 0 <= config.max_failure_ratio <= 1:
        raise invalid(
            f"{path}.MaxFailureRatio",
            f"must not be less than 0 or bigger than 1, not {config.max_failure_ratio}",
        )
    _check_word(config.failure_action, f"{path}.FailureAction", actions)
    _check_word(config.order, f"{path}.Order", tuple(UpdateOrder))


def _check_word(word: str, path: str, known: tuple[str, ...]) -> None:
    if word and word not in known:
        listed = ", ".join(str(one) for one in known)
        raise invalid(path, f"{word!r} is none of {listed}")


def check_endpoint(endpoint: EndpointSpec) -> None:
    """Ports that can be published together, in a mode that can."""
    _check_word(endpoint.mode, "EndpointSpec.Mode", _RESOLUTION_MODES)
    published: Counter[tuple[str, int, str]] = Counter()
    bound: Counter[tuple[str, int, str, int]] = Counter()
    for position, port in enumerate(endpoint.ports):
        path = f"EndpointSpec.Ports[{position}]"
        _check_port(port, path)
        protocol, mode = port.protocol or "tcp", port.publish_mode or "ingress"
        if endpoint.mode == "dnsrr" and mode == "ingress":
            raise invalid(
                path, "port published with ingress mode can't be used with dnsrr mode"
            )
        published[protocol, port.published_port, mode] += 1
        if port.published_port and published[protocol, port.published_port, mode] > 1:
            raise invalid(
                f"{path}.PublishedPort",
                f"duplicate published ports provided: {port.published_port}/{protocol}",
            )
        if port.published_port:
            continue
        bound[protocol, port.target_port, mode, 0] += 1
        if bound[protocol, port.target_port, mode, 0] > 1:
            raise invalid(
                f"{path}.TargetPort",
                f"duplicate target port {port.target_port}/{protocol} without a published port",
            )


def _check_port(port: PortConfig, path: str) -> None:
    _check_word(port.protocol, f"{path}.Protocol", _PROTOCOLS)
    _check_word(port.publish_mode, f"{path}.PublishMode", _PUBLISH_MODES)
    if not 1 <= port.target_port <= 65535:
        raise invalid(
            f"{path}.TargetPort", f"must be between 1 and 65535, not {port.target_port}"
        )
    if not 0 <= port.published_port <= 65535:
        raise invalid(
            f"{path}.PublishedPort", f"must be between 0 and 65535, not {port.published_port}"
        )
    if port.protocol == "sctp":
        raise unimplemented(f"{path}.Protocol", "sctp ports are not supported yet")
