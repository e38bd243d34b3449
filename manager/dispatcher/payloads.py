"""The secrets and configs that a node's tasks need, as they are told to it. Pure.

A payload with templates is another one for each task, so its id there carries the task's; what
cannot be given says why, and the agent rejects the task with that sentence.
"""

from collections.abc import Callable

import msgspec

from manager.view import View
from shoal.model.assignment import Payload
from shoal.model.errors import InvalidArgument
from shoal.model.ids import ConfigID, SecretID
from shoal.model.objects import Config, Secret, Task
from shoal.model.spec.task import ContainerSpec
from shoal.model.states import TaskState
from shoal.model.template import Context, expand

Opened = Callable[[Secret], bytes]
"""The bytes of a secret, which is stored sealed."""


class Needs(msgspec.Struct, frozen=True):
    """A task's container with its references as they are told, and the payloads."""

    container: ContainerSpec
    secrets: tuple[Payload, ...] = ()
    configs: tuple[Payload, ...] = ()


def consumes(task: Task) -> bool:
    """Whether a task may (still) read what it refers to: else its node does not have it."""
    return task.wanted and task.status.state <= TaskState.RUNNING


def needs(
    view: View, task: Task, container: ContainerSpec, context: Context, opened: Opened
) -> Needs:
    """What one task is told of its secrets and configs."""
    if not container.secrets and not container.configs:
        return Needs(container)
    reading = _Reading(view, task, container, context, opened)
    told = msgspec.structs.replace(
        container,
        secrets=tuple(
            msgspec.structs.replace(one, secret_id=reading.told_id(one.secret_id))
            for one in container.secrets
        ),
        configs=tuple(
            msgspec.structs.replace(one, config_id=reading.told_id(one.config_id))
            for one in container.configs
        ),
    )
    if not consumes(task):
        return Needs(told)
    return Needs(
        told,
        tuple(reading.payload(one.secret_id, one.secret_name) for one in container.secrets),
        tuple(reading.payload(one.config_id, one.config_name) for one in container.configs),
    )


class _Reading(msgspec.Struct, frozen=True):
    """Reads payloads for one task."""

    view: View
    task: Task
    container: ContainerSpec
    context: Context
    opened: Opened

    def told_id(self, identity: str) -> str:
        """The payload's id on the node."""
        found = self._find(identity)
        templated = found is not None and found.templating
        return f"{identity}.{self.task.id}" if templated else identity

    def payload(self, identity: str, name: str) -> Payload:
        """The payload, or why there is none."""
        found = self._find(identity)
        if found is None:
            return Payload(id=identity, error=f"{name} does not exist any more")
        told = self.told_id(identity)
        data = self._data(found)
        if not found.templating:
            return Payload(id=told, data=data)
        try:
            text = expand(
                data.decode(),
                self.context,
                {"secret": self._secret, "config": self._config, "env": self._env},
            )
        except (InvalidArgument, UnicodeDecodeError) as error:
            return Payload(id=told, error=f"{name} cannot be expanded: {error}")
        return Payload(id=told, data=text.encode())

    def _find(self, identity: str) -> Secret | Config | None:
        return self.view.secret(SecretID(identity)) or self.view.config(ConfigID(identity))

    def _data(self, thing: Secret | Config) -> bytes:
        return self.opened(thing) if isinstance(thing, Secret) else thing.data

    def _secret(self, target: str) -> str:
        for one in self.container.secrets:
            if one.file is not None and one.file.name == target:
                found = self.view.secret(SecretID(one.secret_id))
                if found is not None:
                    return self._data(found).decode()
        raise InvalidArgument(f"secret target {target} not found")

    def _config(self, target: str) -> str:
        for one in self.container.configs:
            if one.file is not None and one.file.name == target:
                found = self.view.config(ConfigID(one.config_id))
                if found is not None:
                    return found.data.decode()
        raise InvalidArgument(f"config target {target} not found")

    def _env(self, variable: str) -> str:
        for entry in self.container.env:
            name, equals, value = entry.partition("=")
            if equals and name == variable:
                return value
        return ""
