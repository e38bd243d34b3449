"""Placeholders in service specs: the part of Go's templates that Swarm documents. Pure.

Fields `.Service.{ID,Name,Labels}`, `.Node.{ID,Hostname,Platform.{Architecture,OS}}`,
`.Task.{ID,Name,Slot}`, a label by `index .Service.Labels "key"` or `.Service.Labels.key`, and
the helper `join`. They stand in environment values, hostname, mount sources and targets, volume
labels and volume driver options (docker-swarm.md 1.9). A missing key is an error.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
from msgspec import field
from typing_extensions import override

from shoal.model.container import DriverConfig, Mount, VolumeOptions
from shoal.model.errors import InvalidArgument
from shoal.model.spec.task import ContainerSpec


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's placeholders stand for."""

    service_id: str = "service-id"
    service_name: str = "service"
    service_labels: Mapping[str, str] = field(default_factory=dict)
    node_id: str = "node-id"
    node_hostname: str = "node"
    node_architecture: str = "x86_64"
    node_os: str = "linux"
    task_id: str = "task-id"
    task_name: str = "task"
    task_slot: str = "1"


_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|`([^`]*)`|(\S+)')
_FIELDS = {
    ".Service.ID": "service_id",
    ".Service.Name": "service_name",
    ".Node.ID": "node_id",
    ".Node.Hostname": "node_hostname",
    ".Node.Platform.Architecture": "node_architecture",
    ".Node.Platform.OS": "node_os",
    ".Task.ID": "task_id",
    ".Task.Name": "task_name",
    ".Task.Slot": "task_slot",
}
_LABEL = ".Service.Labels"
_SHOWN = 80


PAYLOAD_FUNCTIONS = ("secret", "config", "env")
Functions = Mapping[str, Callable[[str], str]]
"""Functions of one quoted word, by name: `secret "target"` and the like in payloads."""


def expand(text: str, context: Context, functions: Functions = MappingProxyType({})) -> str:
    """The text with its placeholders replaced.

    >>> expand("{{.Service.Name}}-{{.Task.Slot}}", Context(service_name="web", task_slot="3"))
    'web-3'
    """
    if "{{" not in text:
        return text
    if "{{" in _ACTION.sub("", text):
        raise _wrong(text, "{{ without }}")
    return _ACTION.sub(lambda found: _action(found.group(1), text, context, functions), text)


def _action(action: str, text: str, context: Context, functions: Functions) -> str:
    words: list[tuple[str, bool]] = []  # each with whether it is a literal
    for found in _WORD.finditer(action):
        quoted, raw, name = found.groups()
        words.append((name, False) if name is not None else (quoted or raw or "", True))
    match [word for word, _ in words]:
        case [only]:
            return only if words[0][1] else _field(only, text, context)
        case [name, word] if name in functions and not words[0][1] and words[1][1]:
            return functions[name](word)
        case ["index", ".Service.Labels", key]:
            return _label(key, text, context)
        case ["join", _, _, *_]:
            parts = [w if literal else _field(w, text, context) for w, literal in words[1:]]
            return parts[0].join(parts[1:])
        case _:
            raise _wrong(text, f"{{{{{action}}}}} is not understood")


def _field(name: str, text: str, context: Context) -> str:
    if name in _FIELDS:
        value: str = getattr(context, _FIELDS[name])
        return value
    if name.startswith(_LABEL + "."):
        return _label(name.removeprefix(_LABEL + "."), text, context)
    raise _wrong(text, f"{name} is not one of {', '.join(_FIELDS)}, {_LABEL}")


def _label(key: str, text: str, context: Context) -> str:
    if key not in context.service_labels:
        raise _wrong(text, f"the service has no label {key}")
    return context.service_labels[key]


def _wrong(text: str, reason: str) -> InvalidArgument:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return InvalidArgument(f"invalid template {shown!r}: {reason}")


class _AnyLabel(dict[str, str]):
    """Labels of a service that is not known yet: it has every one."""

    @override
    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def check_payload_template(text: str) -> None:
    """Refuse a payload whose placeholders are not understood, whoever uses it."""
    functions = dict.fromkeys(PAYLOAD_FUNCTIONS, lambda _: "")
    expand(text, Context(service_labels=_AnyLabel()), functions)


def expand_container(spec: ContainerSpec, context: Context) -> ContainerSpec:
    """A container's spec with every place that may hold placeholders expanded."""
    return msgspec.structs.replace(
        spec,
        hostname=expand(spec.hostname, context),
        env=tuple(_expand_env(entry, context) for entry in spec.env),
        mounts=tuple(_expand_mount(mount, context) for mount in spec.mounts),
    )


def _expand_env(entry: str, context: Context) -> str:
    name, equals, value = entry.partition("=")
    return name + equals + expand(value, context)


def _expand_mount(mount: Mount, context: Context) -> Mount:
    return msgspec.structs.replace(
        mount,
        source=expand(mount.source, context),
        target=expand(mount.target, context),
        volume_options=_expand_volume(mount.volume_options, context),
    )


def _expand_volume(options: VolumeOptions | None, context: Context) -> VolumeOptions | None:
    if options is None:
        return None
    driver = options.driver_config
    return msgspec.structs.replace(
        options,
        labels={key: expand(value, context) for key, value in options.labels.items()},
        driver_config=DriverConfig(
            name=driver.name,
            options={key: expand(value, context) for key, value in driver.options.items()},
        )
        if driver is not None
        else None,
    )
