"""From what this node was told before and a difference to what it is told now. Pure.

The other half of `manager.dispatcher.assignments`. Used by `agent.session`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from shoal.model.assignment import Assignments, Difference, Payload
from shoal.model.ids import TaskID

NOTHING = Assignments()

K = TypeVar("K")
V = TypeVar("V")


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that came, that are told otherwise, and that are told no more."""

    added: tuple[TaskID, ...] = ()
    changed: tuple[TaskID, ...] = ()
    gone: tuple[TaskID, ...] = ()


def merge(before: Assignments, told: Difference, *, complete: bool) -> Assignments:
    """The new set: a complete one replaces everything, a difference what it names."""
    base = NOTHING if complete else before
    return Assignments(
        tasks=_merged(base.tasks, {t.id: t for t in told.tasks}, told.removed_tasks),
        secrets=_merged(base.secrets, _by_id(told.secrets), told.removed_secrets),
        configs=_merged(base.configs, _by_id(told.configs), told.removed_configs),
        mesh=told.mesh if told.mesh is not None else base.mesh,
        ingress=told.ingress if told.ingress is not None else base.ingress,
        managers=told.managers if told.managers is not None else base.managers,
        role=told.role if told.role is not None else base.role,
        trust=told.trust if told.trust is not None else base.trust,
        networks=_merged(
            base.networks, {each.id: each for each in told.networks}, told.removed_networks
        ),
        endpoints=_merged(
            base.endpoints, {each.key: each for each in told.endpoints}, told.removed_endpoints
        ),
        services=_merged(
            base.services, {each.key: each for each in told.services}, told.removed_services
        ),
    )


def changes(before: Assignments, now: Assignments) -> Changes:
    """What became of the tasks between two sets."""
    return Changes(
        added=tuple(key for key in now.tasks if key not in before.tasks),
        changed=tuple(
            key
            for key, task in now.tasks.items()
            if key in before.tasks and before.tasks[key] != task
        ),
        gone=tuple(key for key in before.tasks if key not in now.tasks),
    )


def _by_id(payloads: Iterable[Payload]) -> dict[str, Payload]:
    return {payload.id: payload for payload in payloads}


def _merged(old: Mapping[K, V], new: Mapping[K, V], gone: Sequence[K]) -> Mapping[K, V]:
    if not new and not gone:
        return old  # the same object, so that nobody looks for what changed
    left = {**old, **new}
    for key in gone:
        left.pop(key, None)
    return left
