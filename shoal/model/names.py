"""Docker's spelling of JSON keys, by one function, and the folding of request bodies to it.

Go's JSON decoder matches keys without regard to case, ignores unknown keys and takes null as
absent (docker-swarm.md 2.1). msgspec does none of the first and last, so request bodies go
through `fold_keys` before they are decoded. Maps whose keys are the user's data (labels,
sysctls) are left alone.
"""

import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

_ACRONYMS = {
    "id": "ID",
    "ids": "IDs",
    "ip": "IP",
    "ipam": "IPAM",
    "dns": "DNS",
    "tty": "TTY",
    "url": "URL",
    "uid": "UID",
    "gid": "GID",
    "os": "OS",
    "ca": "CA",
    "cpus": "CPUs",
    "csi": "CSI",
    "tls": "TLS",
    "pid": "PID",
    "virtual_ips": "VirtualIPs",
    "ips": "IPs",
    "selinux": "SELinux",
    "nocopy": "NoCopy",
    "vxlan": "VXLAN",
    "fs": "Fs",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
}
_WHOLE = {
    "nano_cpus": "NanoCPUs",
    "healthcheck": "Healthcheck",
    "dns_config": "DNSConfig",
    "oom_score_adj": "OomScoreAdj",
    "app_armor": "AppArmor",
    "ca_cert": "CACert",
    "signing_ca_cert": "SigningCACert",
    "signing_ca_key": "SigningCAKey",
    "external_cas": "ExternalCAs",
}


@lru_cache(maxsize=4096)
def docker_name(name: str) -> str:
    """The JSON key of the swarm half of the API for a snake_case field name.

    >>> docker_name("nano_cpus"), docker_name("service_id"), docker_name("dns_config")
    ('NanoCPUs', 'ServiceID', 'DNSConfig')
    """
    if name in _WHOLE:
        return _WHOLE[name]
    return "".join(_ACRONYMS.get(part, part.capitalize()) for part in name.split("_"))


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=docker_name):
    """Base of what is spoken in Docker's JSON: frozen, keyword-only, defaults left out.

    A field that Docker writes even when it is zero is declared with `always(value)`.
    """


T = TypeVar("T")


def always(value: T) -> T:
    """Default of a field that is written to JSON even when it holds this default."""

    def make() -> T:
        return value

    made: T = msgspec.field(default_factory=make)
    return made


Folder = Callable[[Any], Any]


def fold_keys(value: object, model: type) -> object:
    """A decoded JSON body with the keys of `model` spelled as `model` has them, nulls dropped.

    Unknown keys are dropped, as Docker ignores them. Of two keys that differ in case alone the
    last one wins, as in Go.
    """
    return _folder(model)(value)


@lru_cache(maxsize=1024)
def _folder(model: Any) -> Folder:
    if isinstance(model, type) and issubclass(model, msgspec.Struct):
        return _struct_folder(model)
    origin = get_origin(model)
    if origin in (types.UnionType, Union):
        return _first_structured([arg for arg in get_args(model) if arg is not type(None)])
    if origin in (tuple, list, frozenset):
        inner = _folder(get_args(model)[0])
        return lambda value: [inner(v) for v in value] if isinstance(value, list) else value
    if origin is not None and issubclass(origin, Mapping):
        inner = _folder(get_args(model)[1])
        return lambda value: _fold_values(value, inner)
    return lambda value: value


def _fold_values(value: Any, inner: Folder) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: inner(v) for k, v in value.items() if v is not None}


def _first_structured(options: list[Any]) -> Folder:
    return _folder(options[0]) if len(options) == 1 else lambda value: value


def _struct_folder(model: type[msgspec.Struct]) -> Folder:
    fields: dict[str, tuple[str, Any]] = {}
    ready: dict[str, Folder] = {}
    for field in msgspec.structs.fields(model):
        fields[field.encode_name.lower()] = (field.encode_name, field.type)

    def fold(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        out: dict[str, Any] = {}
        for key, item in value.items():
            known = fields.get(key.lower())
            if known is None or item is None:
                continue
            name, inner = known
            folder = ready.get(name)
            if folder is None:  # made on first use, so that types may contain themselves
                folder = ready[name] = _folder(inner)
            out[name] = folder(item)
        return out

    return fold
