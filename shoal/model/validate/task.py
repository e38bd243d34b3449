"""The rules of a task template: resources, restart policy, placement, log driver. Pure.

Its container has its own module, `container`. Called by `service`.
"""

import re
from collections.abc import Mapping, Sequence

from shoal.model.constraints import parse
from shoal.model.errors import InvalidArgument
from shoal.model.spec.task import (
    GenericResource,
    Limit,
    LogDriver,
    NetworkAttachmentConfig,
    Placement,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    TaskSpec,
)
from shoal.model.states import RestartCondition
from shoal.model.validate.container import check_container
from shoal.model.validate.refusal import OF_CLUSTER, invalid, unimplemented
from shoal.model.validate.settings import check_logging, is_dockers_own

LEAST_NANO_CPUS = 1_000_000
LEAST_MEMORY = 4 << 20
_TEMPLATE = "TaskTemplate"
_LABEL = r"[a-zA-Z0-9_](?:[-_a-zA-Z0-9]{0,61}[a-zA-Z0-9_])?"
_ALIAS = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_SPREADS = ("node.labels.", "engine.labels.")


def check_task(spec: TaskSpec, service_name: str, labels: Mapping[str, str]) -> None:
    """Refuse a template that tasks cannot be made from."""
    _check_runtime(spec)
    if spec.container_spec is None:
        raise invalid(f"{_TEMPLATE}.ContainerSpec", "a container spec must be given")
    check_container(spec.container_spec, service_name, labels)
    if spec.resources is not None:
        _check_resources(spec.resources)
    if spec.restart_policy is not None:
        _check_restart(spec.restart_policy)
    if spec.placement is not None:
        _check_placement(spec.placement)
    if spec.log_driver is not None:
        _check_log_driver(spec.log_driver)
    if spec.force_update < 0:
        raise invalid(f"{_TEMPLATE}.ForceUpdate", f"must not be negative: {spec.force_update}")
    check_networks(spec.networks, f"{_TEMPLATE}.Networks")


def _check_runtime(spec: TaskSpec) -> None:
    if spec.plugin_spec is not None:
        raise unimplemented(f"{_TEMPLATE}.PluginSpec", "plugins are not supported")
    if spec.runtime == "plugin":
        raise unimplemented(f"{_TEMPLATE}.Runtime", "plugins are not supported")
    if spec.network_attachment_spec is not None:
        raise invalid(
            f"{_TEMPLATE}.NetworkAttachmentSpec",
            "a service cannot be made of a network attachment",
        )
    if spec.runtime not in ("", "container"):
        raise invalid(f"{_TEMPLATE}.Runtime", f"{spec.runtime!r} is not container")


def check_networks(networks: Sequence[NetworkAttachmentConfig], path: str) -> None:
    """Networks by name or id, with names that can be looked up there."""
    for position, network in enumerate(networks):
        if not network.target:
            raise invalid(f"{path}[{position}].Target", "a network's name or id must be given")
        for name in filter(is_dockers_own, network.driver_opts):
            raise unimplemented(
                f"{path}[{position}].DriverOpts",
                f"{name!r}: a task's place on a network has no such option yet",
            )
        for place, alias in enumerate(network.aliases):
            if not _ALIAS.fullmatch(alias):
                raise invalid(
                    f"{path}[{position}].Aliases[{place}]",
                    f"{alias!r} is not valid as a host name",
                )


def _check_resources(resources: ResourceRequirements) -> None:
    path = f"{_TEMPLATE}.Resources"
    if resources.limits is not None:
        _check_amounts(resources.limits, f"{path}.Limits")
        if resources.limits.pids < 0:
            raise invalid(
                f"{path}.Limits.Pids", f"must not be negative: {resources.limits.pids}"
            )
    if resources.reservations is not None:
        _check_amounts(resources.reservations, f"{path}.Reservations")
        for position, generic in enumerate(resources.reservations.generic_resources):
            _check_generic(generic, f"{path}.Reservations.GenericResources[{position}]")
    if resources.swap_bytes is not None:
        raise unimplemented(f"{path}.SwapBytes", "swap limits are not supported yet")
    if resources.memory_swappiness is not None:
        raise unimplemented(f"{path}.MemorySwappiness", "swappiness is not supported yet")


def _check_amounts(amounts: Limit | Resources, path: str) -> None:
    if amounts.nano_cpus and amounts.nano_cpus < LEAST_NANO_CPUS:
        raise invalid(
            f"{path}.NanoCPUs",
            f"invalid cpu value {amounts.nano_cpus / 1e9:g}: must be at least 0.001",
        )
    if amounts.memory_bytes and amounts.memory_bytes < LEAST_MEMORY:
        raise invalid(
            f"{path}.MemoryBytes",
            f"invalid memory value {amounts.memory_bytes}: must be at least 4MiB",
        )


def _check_generic(generic: GenericResource, path: str) -> None:
    named, discrete = generic.named_resource_spec, generic.discrete_resource_spec
    if named is not None:
        if not (named.kind and named.value):
            raise invalid(f"{path}.NamedResourceSpec", "Kind and Value must be given")
        if discrete is None:
            return
        raise invalid(path, "give either NamedResourceSpec or DiscreteResourceSpec")
    if discrete is None:
        raise invalid(f"{path}.DiscreteResourceSpec", "must be given")
    if not discrete.kind:
        raise invalid(f"{path}.DiscreteResourceSpec.Kind", "must be given")
    if discrete.value <= 0:
        raise invalid(
            f"{path}.DiscreteResourceSpec.Value", f"must be positive, not {discrete.value}"
        )


def _check_restart(policy: RestartPolicy) -> None:
    path = f"{_TEMPLATE}.RestartPolicy"
    known = tuple(RestartCondition)
    if policy.condition and policy.condition not in known:
        raise invalid(
            f"{path}.Condition", f"{policy.condition!r} is none of {', '.join(known)}"
        )
    for name, value in (
        ("Delay", policy.delay),
        ("MaxAttempts", policy.max_attempts),
        ("Window", policy.window),
    ):
        if value is not None and value < 0:
            raise invalid(f"{path}.{name}", f"must not be negative, not {value}")


def _check_placement(placement: Placement) -> None:
    path = f"{_TEMPLATE}.Placement"
    for position, expression in enumerate(placement.constraints):
        _check_constraint(expression, f"{path}.Constraints[{position}]")
    for position, preference in enumerate(placement.preferences):
        below = f"{path}.Preferences[{position}].Spread"
        if preference.spread is None:
            raise invalid(below, "must be given: spread is the only strategy")
    if placement.max_replicas < 0:
        raise invalid(f"{path}.MaxReplicas", f"must not be negative: {placement.max_replicas}")


def task_warnings(spec: TaskSpec) -> tuple[str, ...]:
    """What is accepted, as Docker does, and has no effect."""
    preferences = spec.placement.preferences if spec.placement is not None else ()
    return tuple(
        f"{_TEMPLATE}.Placement.Preferences[{position}].Spread.SpreadDescriptor: "
        f"{preference.spread.spread_descriptor!r} is neither node.labels.NAME nor "
        "engine.labels.NAME: nothing is spread by it"
        for position, preference in enumerate(preferences)
        if preference.spread is not None and not _is_label(preference.spread.spread_descriptor)
    )


def _is_label(descriptor: str) -> bool:
    return any(
        descriptor.lower().startswith(each) and len(descriptor) > len(each) for each in _SPREADS
    )


def _check_constraint(expression: str, path: str) -> None:
    try:
        parse(expression)
    except InvalidArgument as error:
        raise invalid(path, str(error)) from error


def _check_log_driver(driver: LogDriver) -> None:
    path = f"{_TEMPLATE}.LogDriver"
    paths = (f"{path}.Name", f"{path}.Options")
    check_logging(driver.name, driver.options, paths, OF_CLUSTER)
