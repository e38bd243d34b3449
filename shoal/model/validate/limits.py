"""What no spec may hold anywhere: numbers that do not travel, bytes that end strings, bulk.

JSON knows no bounds; the messages to agents have 64-bit integers, kernels end strings at NUL
and the store takes no record beyond its limit. Checked once over the whole of a request's body
and of a spec, so that the other rules need not think of it. Pure.
"""

from collections.abc import Iterable, Mapping
from math import isfinite

import msgspec

from shoal.model.validate.refusal import invalid

LARGEST = (1 << 63) - 1
SPEC_BYTES = 1 << 20
"""A service keeps its spec, the one before and a copy for its tasks in one transaction."""


def check_limits(spec: msgspec.Struct) -> None:
    """Refuse a spec that cannot be stored or sent."""
    if (fault := first_fault(spec)) is not None:
        raise invalid(*fault)
    size = len(msgspec.json.encode(spec))
    if size > SPEC_BYTES:
        raise invalid("", f"the spec is too large: {size} bytes, the limit is {SPEC_BYTES}")


def first_fault(value: object, path: str = "") -> tuple[str, str] | None:
    """The path of the first number or text that could not travel, and what is wrong with it."""
    match value:
        case bool() | bytes() | None:
            return None
        case float():
            return None if isfinite(value) else (path, f"{value} is no number")
        case int():
            small = -LARGEST - 1 <= value <= LARGEST
            return None if small else (path, "the number is beyond 64 bits")
        case str():
            return (path, "must not contain a NUL character") if "\0" in value else None
        case _:
            parts = (first_fault(inner, below) for inner, below in _parts(value, path))
            return next((fault for fault in parts if fault is not None), None)


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
