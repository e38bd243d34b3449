"""What no spec may hold anywhere: numbers that do not travel, bytes that end strings, bulk.

JSON knows no bounds; the messages to agents have 64-bit integers, kernels end strings at NUL
and the store takes no record beyond its limit. Checked once over the whole spec, so that the
other rules need not think of it. Pure.
"""

from collections.abc import Iterable, Mapping

import msgspec

from shoal.model.validate.refusal import invalid

LARGEST = (1 << 63) - 1
SPEC_BYTES = 1 << 20
"""A service keeps its spec, the one before and a copy for its tasks in one transaction."""


def check_limits(spec: msgspec.Struct) -> None:
    """Refuse a spec that cannot be stored or sent."""
    _check(spec, "")
    size = len(msgspec.json.encode(spec))
    if size > SPEC_BYTES:
        raise invalid("", f"the spec is too large: {size} bytes, the limit is {SPEC_BYTES}")


def _check(value: object, path: str) -> None:
    match value:
        case bool() | float() | bytes() | None:
            return
        case int():
            if not -LARGEST - 1 <= value <= LARGEST:
                raise invalid(path, f"{value} is beyond 64 bits")
        case str():
            if "\0" in value:
                raise invalid(path, "must not contain a NUL character")
        case _:
            for inner, below in _parts(value, path):
                _check(inner, below)


def _parts(value: object, path: str) -> Iterable[tuple[object, str]]:
    match value:
        case msgspec.Struct():
            for field in msgspec.structs.fields(value):
                yield getattr(value, field.name), _join(path, field.encode_name)
        case Mapping():
            for key, inner in value.items():
                yield key, path
                yield inner, _join(path, str(key))
        case tuple() | list():
            for position, inner in enumerate(value):
                yield inner, f"{path}[{position}]"
        case _:
            raise TypeError(f"a spec cannot hold {value!r}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
