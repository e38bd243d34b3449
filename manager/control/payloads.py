"""Secrets and configs: create, change labels, remove. Their bytes never change.

Giving them to tasks is the dispatcher's; a service that names one is guarded by the store, so
what is in use cannot be removed.
"""

from collections.abc import Mapping

import msgspec

from manager.control.lookup import find_config, find_secret
from manager.control.writing import Writer
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from manager.view import View
from shoal.common.clock import Clock
from shoal.model.changes import Create, Delete, Group, Update
from shoal.model.errors import InvalidArgument
from shoal.model.ids import ConfigID, IdSource, SecretID
from shoal.model.names import Wire, always
from shoal.model.objects import Config, Secret
from shoal.model.template import check_payload_template
from shoal.model.validate.limits import check_limits
from shoal.model.validate.payload import (
    CONFIG_BYTES,
    SECRET_BYTES,
    check_payload,
    check_payload_name,
)
from shoal.model.validate.refusal import (
    OF_CLUSTER,
    exists,
    invalid,
    out_of_sequence,
    unimplemented,
)
from shoal.model.validate.settings import check_label_names


class Driver(Wire, frozen=True, kw_only=True):
    """A named driver with options."""

    name: str = always("")
    options: Mapping[str, str] = msgspec.field(default_factory=dict)


class PayloadSpec(Wire, frozen=True, kw_only=True):
    """SecretSpec and ConfigSpec of the API; `Data` is base64 in JSON."""

    name: str = always("")
    labels: Mapping[str, str] = always({})
    data: bytes = b""
    driver: Driver | None = None
    templating: Driver | None = None


class Payloads:
    """The operations on secrets and configs."""

    def __init__(
        self, writer: Writer, memory: Memory, sealer: Sealer, clock: Clock, ids: IdSource
    ) -> None:
        self._writer = writer
        self._memory = memory
        self._sealer = sealer
        self._clock = clock
        self._ids = ids

    async def create_secret(self, spec: PayloadSpec) -> SecretID:
        """A new secret; its bytes are sealed before they are stored."""
        check_spec(spec, "secret", SECRET_BYTES)
        identity = SecretID(self._ids.new())
        sealed = self._sealer.seal(spec.data, secret_seal_name(identity))

        def decide() -> tuple[Group, SecretID]:
            if any(secret.name == spec.name for secret in self._memory.secrets()):
                raise exists("secret", spec.name)
            now = self._clock.now()
            secret = Secret(
                id=identity,
                created_at=now,
                updated_at=now,
                name=spec.name,
                labels=spec.labels,
                sealed=sealed,
                templating=_templating(spec),
            )
            return Group((Create(secret),), f"secret {spec.name} created"), identity

        return await self._writer.write(decide)

    async def create_config(self, spec: PayloadSpec) -> ConfigID:
        """A new config."""
        check_spec(spec, "config", CONFIG_BYTES)
        identity = ConfigID(self._ids.new())

        def decide() -> tuple[Group, ConfigID]:
            if any(config.name == spec.name for config in self._memory.configs()):
                raise exists("config", spec.name)
            now = self._clock.now()
            config = Config(
                id=identity,
                created_at=now,
                updated_at=now,
                name=spec.name,
                labels=spec.labels,
                data=spec.data,
                templating=_templating(spec),
            )
            return Group((Create(config),), f"config {spec.name} created"), identity

        return await self._writer.write(decide)

    async def update_secret(self, text: str, spec: PayloadSpec, version: int) -> None:
        """New labels; the same bytes, or none, may come along."""

        def decide() -> tuple[Group, None]:
            secret = find_secret(self._memory, text)
            had = secret_bytes(self._sealer, secret)
            _check_update(secret, spec, had, version)
            changed = msgspec.structs.replace(
                secret, labels=spec.labels, updated_at=self._clock.now()
            )
            return Group((Update(changed),), f"secret {secret.name} updated"), None

        await self._writer.write(decide)

    async def update_config(self, text: str, spec: PayloadSpec, version: int) -> None:
        """New labels; the same bytes, or none, may come along."""

        def decide() -> tuple[Group, None]:
            config = find_config(self._memory, text)
            _check_update(config, spec, config.data, version)
            changed = msgspec.structs.replace(
                config, labels=spec.labels, updated_at=self._clock.now()
            )
            return Group((Update(changed),), f"config {config.name} updated"), None

        await self._writer.write(decide)

    async def remove_secret(self, text: str) -> None:
        """Forget a secret that nothing uses."""

        def decide() -> tuple[Group, None]:
            secret = find_secret(self._memory, text)
            _check_unused(self._memory, secret)
            return Group((Delete(secret),), f"secret {secret.name} removed"), None

        await self._writer.write(decide)

    async def remove_config(self, text: str) -> None:
        """Forget a config that nothing uses."""

        def decide() -> tuple[Group, None]:
            config = find_config(self._memory, text)
            _check_unused(self._memory, config)
            return Group((Delete(config),), f"config {config.name} removed"), None

        await self._writer.write(decide)


def secret_seal_name(secret: SecretID) -> str:
    """The name under which a secret's bytes are sealed."""
    return f"secret/{secret}"


def check_spec(spec: PayloadSpec, kind: str, limit: int) -> None:
    """Refuse a secret or config that could not be stored or used."""
    check_payload_name(spec.name)
    check_label_names(spec.labels, "Labels", OF_CLUSTER)
    if spec.driver is not None and spec.driver.name:
        raise unimplemented("Driver", f"{kind} drivers are not supported")
    check_payload(spec.data, kind, limit)
    check_limits(msgspec.structs.replace(spec, data=b""))
    if _templating(spec) not in ("", "golang"):
        raise invalid("Templating.Name", f"{_templating(spec)!r} is not golang")
    if _templating(spec):
        _check_template(spec.data, kind)


def _check_template(data: bytes, kind: str) -> None:
    try:
        check_payload_template(data.decode())
    except UnicodeDecodeError as error:
        raise invalid("Data", f"a {kind} with templates must be UTF-8 text") from error
    except InvalidArgument as error:
        raise unimplemented("Data", str(error)) from error


def secret_bytes(sealer: Sealer, secret: Secret) -> bytes:
    """What the secret is."""
    return sealer.open(secret.sealed, secret_seal_name(secret.id))


def _templating(spec: PayloadSpec) -> str:
    return spec.templating.name if spec.templating is not None else ""


def _check_update(thing: Secret | Config, spec: PayloadSpec, had: bytes, version: int) -> None:
    if version != thing.version:
        raise out_of_sequence()
    check_limits(msgspec.structs.replace(spec, data=b""))
    check_label_names(spec.labels, "Labels", OF_CLUSTER)
    if spec.name not in ("", thing.name) or (spec.data and spec.data != had):
        raise invalid("", "only updates to Labels are allowed")


def _check_unused(view: View, thing: Secret | Config) -> None:
    users = []
    for service in view.services():
        container = service.spec.task_template.container_spec
        if container is None:
            continue
        used = [
            *(s.secret_id for s in container.secrets),
            *(c.config_id for c in container.configs),
        ]
        if thing.id in used:
            users.append(service.spec.name)
    if users:
        kind = "secret" if isinstance(thing, Secret) else "config"
        word = "service" if len(users) == 1 else "services"
        raise invalid(
            "", f"{kind} '{thing.name}' is in use by the following {word}: {', '.join(users)}"
        )
