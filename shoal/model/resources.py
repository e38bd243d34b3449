"""What a task reserves and what a node has left: fits, and which generic ones it gets. Pure.

Limits bound a container and are no concern of placement. Called by scheduler and enforcer.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import field

from shoal.model.errors import InvalidArgument
from shoal.model.numbers import whole
from shoal.model.spec.task import (
    DiscreteResource,
    GenericResource,
    NamedResource,
    Resources,
    TaskSpec,
)

NOTHING_RESERVED = Resources()


class Available(msgspec.Struct, kw_only=True):
    """What a node has left: `named` are the free names of each kind, in order."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    discrete: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)


def reserved(spec: TaskSpec) -> Resources:
    """What a task reserves."""
    if spec.resources is None or spec.resources.reservations is None:
        return NOTHING_RESERVED
    return spec.resources.reservations


def generic_of(texts: Sequence[str]) -> tuple[GenericResource, ...]:
    """What a host has, out of `KIND=NAME` and `KIND=COUNT` (docker-swarm.md 1.4).

    Raises:
        InvalidArgument: it is neither, or a kind is both named and counted.
    """
    found: list[GenericResource] = []
    counted: dict[str, bool] = {}
    for text in texts:
        kind, _, value = text.partition("=")
        count = whole(value)
        if (
            not kind
            or not value
            or counted.setdefault(kind, count is not None) != (count is not None)
        ):
            raise InvalidArgument(
                f"generic_resources: {text!r} is not KIND=NAME or KIND=COUNT, one form a kind",
                field="generic_resources",
            )
        if count is None:
            named = NamedResource(kind=kind, value=value)
            found.append(GenericResource(named_resource_spec=named))
        else:
            discrete = DiscreteResource(kind=kind, value=count)
            found.append(GenericResource(discrete_resource_spec=discrete))
    return tuple(found)


def environment_of(claimed: Iterable[GenericResource]) -> tuple[str, ...]:
    """What a task's process is told of its claims: `DOCKER_RESOURCE_GPU=UUID1,UUID2`."""
    values: dict[str, list[str]] = {}
    for one in claimed:
        spec = one.named_resource_spec or one.discrete_resource_spec
        if spec is not None:
            values.setdefault(spec.kind, []).append(str(spec.value))
    return tuple(f"DOCKER_RESOURCE_{k.upper()}={','.join(v)}" for k, v in values.items())


def free_generic(
    has: Iterable[GenericResource],
    used_discrete: Mapping[str, int],
    used_named: Mapping[tuple[str, str], int],
) -> Available:
    """The generic resources of a node that no task holds."""
    free = Available()
    for one in has:
        if one.discrete_resource_spec is not None:
            kind, count = one.discrete_resource_spec.kind, one.discrete_resource_spec.value
            free.discrete[kind] = free.discrete.get(kind, 0) + count
        if one.named_resource_spec is not None:
            named = one.named_resource_spec
            if not used_named.get((named.kind, named.value)):
                free.named.setdefault(named.kind, []).append(named.value)
    for kind, used in used_discrete.items():
        if kind in free.discrete:
            free.discrete[kind] -= used
    for names in free.named.values():
        names.sort()
    return free


def missing(wanted: Resources, free: Available) -> str | None:
    """The first thing that a node lacks for a reservation, in plain words; None if it fits."""
    if wanted.nano_cpus > free.nano_cpus:
        return "not enough CPU"
    if wanted.memory_bytes > free.memory_bytes:
        return "not enough memory"
    if wanted.generic_resources:
        return _claim(wanted.generic_resources, free)[1]
    return None


def assign(
    wanted: Iterable[GenericResource], free: Available
) -> tuple[GenericResource, ...] | None:
    """The generic resources that a task gets out of what is free; None if it does not fit."""
    claimed, lack = _claim(wanted, free)
    return None if lack is not None else tuple(claimed)


def _claim(
    wanted: Iterable[GenericResource], free: Available
) -> tuple[list[GenericResource], str | None]:
    discrete = dict(free.discrete)
    named = {kind: list(names) for kind, names in free.named.items()}
    claimed: list[GenericResource] = []
    for one in wanted:
        got: list[GenericResource] | None = []
        kind = ""
        if one.named_resource_spec is not None:
            kind = one.named_resource_spec.kind
            got = _claim_name(kind, one.named_resource_spec.value, named)
        elif one.discrete_resource_spec is not None:
            kind = one.discrete_resource_spec.kind
            got = _claim_count(kind, one.discrete_resource_spec.value, discrete, named)
        if got is None:
            return [], f"not enough {kind}"
        claimed.extend(got)
    return claimed, None


def _claim_name(
    kind: str, value: str, named: dict[str, list[str]]
) -> list[GenericResource] | None:
    if value not in named.get(kind, ()):
        return None
    named[kind].remove(value)
    return [GenericResource(named_resource_spec=NamedResource(kind=kind, value=value))]


def _claim_count(
    kind: str, count: int, discrete: dict[str, int], named: dict[str, list[str]]
) -> list[GenericResource] | None:
    """Out of names where the node has names of that kind, else out of its number."""
    names = named.get(kind, [])
    if names:
        if len(names) < count:
            return None
        taken, named[kind] = names[:count], names[count:]
        return [
            GenericResource(named_resource_spec=NamedResource(kind=kind, value=name))
            for name in taken
        ]
    if discrete.get(kind, 0) < count:
        return None
    discrete[kind] -= count
    return [GenericResource(discrete_resource_spec=DiscreteResource(kind=kind, value=count))]
