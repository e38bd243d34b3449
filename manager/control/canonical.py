"""What a user left out of a service's spec, said: the form in which specs are kept. Pure.

Only what Docker itself writes into the stored spec; what a missing block means to the
orchestrators is `shoal.model.defaults`'.
"""

import msgspec

from shoal.model.defaults import endpoint_of, is_host_port, job_size
from shoal.model.objects import Endpoint
from shoal.model.spec.service import (
    EndpointSpec,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.spec.task import RestartPolicy, TaskSpec
from shoal.model.states import FailureAction, RestartCondition, UpdateOrder


def canonical_service(spec: ServiceSpec) -> ServiceSpec:
    """Mode, replicas, runtime and the words of ports filled in; networks in their one place."""
    endpoint = spec.endpoint_spec or EndpointSpec()
    template = _template(spec.task_template)
    if not template.networks:
        template = msgspec.structs.replace(template, networks=spec.networks)
    return msgspec.structs.replace(
        spec,
        mode=_mode(spec.mode),
        networks=(),
        task_template=template,
        update_config=_update(spec.update_config),
        rollback_config=_update(spec.rollback_config),
        endpoint_spec=EndpointSpec(
            mode=endpoint.mode or "vip", ports=tuple(_port(port) for port in endpoint.ports)
        ),
    )


def _update(config: UpdateConfig | None) -> UpdateConfig | None:
    if config is None:
        return None
    return msgspec.structs.replace(
        config,
        failure_action=config.failure_action or FailureAction.PAUSE.value,
        order=config.order or UpdateOrder.STOP_FIRST.value,
    )


def _restart(policy: RestartPolicy | None) -> RestartPolicy | None:
    if policy is None:
        return None
    return msgspec.structs.replace(
        policy,
        condition=policy.condition or RestartCondition.ANY.value,
        max_attempts=policy.max_attempts or 0,
    )


def _mode(mode: ServiceMode) -> ServiceMode:
    if mode == ServiceMode() or (
        mode.replicated is not None and mode.replicated.replicas is None
    ):
        return ServiceMode(replicated=Replicated(replicas=1))
    if mode.replicated_job is not None:
        size = job_size(ServiceSpec(mode=mode))
        return ServiceMode(
            replicated_job=ReplicatedJob(
                max_concurrent=size.concurrent, total_completions=size.completions
            )
        )
    return mode


def _template(template: TaskSpec) -> TaskSpec:
    container = template.container_spec
    if container is not None and not container.isolation:
        container = msgspec.structs.replace(container, isolation="default")
    return msgspec.structs.replace(
        template,
        container_spec=container,
        restart_policy=_restart(template.restart_policy),
        runtime=template.runtime or "container",
    )


def _port(port: PortConfig) -> PortConfig:
    return msgspec.structs.replace(
        port, protocol=port.protocol or "tcp", publish_mode=port.publish_mode or "ingress"
    )


def endpoint_after(spec: ServiceSpec, before: Endpoint) -> Endpoint:
    """The endpoint as far as the spec decides it, so that a port it names is taken at once.

    A port that is left to the allocator keeps the number it has had, and stands here only once
    it has one. `spec` of the endpoint stays as it was: it is the allocator's sign of having
    done its part.
    """
    wanted = endpoint_of(spec).ports
    had = {_target(port): port.published_port for port in before.ports}
    ports = (
        port
        if port.published_port or is_host_port(port)
        else msgspec.structs.replace(port, published_port=had.get(_target(port), 0))
        for port in wanted
    )
    known = tuple(port for port in ports if port.published_port or is_host_port(port))
    return msgspec.structs.replace(before, ports=known)


def _target(port: PortConfig) -> tuple[str, str, int, str]:
    return (port.name, port.protocol, port.target_port, port.publish_mode)
