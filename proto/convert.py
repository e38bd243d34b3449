"""Model structs to protobuf messages and back, field by field, by name.

No list of fields is kept by hand: each struct of `shoal.model` that crosses the wire has a
message with the same field names, `tests/unit/proto/test_convert.py` proves that none is
without a partner, and the converter of each pair is built once. Used by the dispatcher and the
agent's session; nobody else sees messages.
"""

import enum
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from proto import types_pb2

T = TypeVar("T", bound=msgspec.Struct)
M = TypeVar("M", bound=Message)


def to_message(value: msgspec.Struct, message: M) -> M:
    """Fill an empty message from a struct; returns the message."""
    for write in _writers(type(value)):
        write(value, message)
    return message


def from_message(message: Message, model: type[T]) -> T:
    """The struct of a message. Unset fields take the struct's defaults."""
    found: dict[str, Any] = {}
    for name, read in _readers(model):
        value = read(message)
        if value is not _UNSET:
            found[name] = value
    return model(**found)


_UNSET = object()
Write = Callable[[Any, Any], None]
Read = Callable[[Any], Any]


def message_field(name: str) -> str:
    """The message's name of a struct's field: a trailing underscore is Python's need only."""
    return name.rstrip("_")


def bare(annotation: Any) -> tuple[Any, bool]:
    """A type without `None`, and whether None was allowed."""
    if get_origin(annotation) in (types.UnionType, Union):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        return rest[0], True
    return annotation, False


@cache
def _writers(model: type[msgspec.Struct]) -> tuple[Write, ...]:
    return tuple(_writer(field.name, field.type) for field in msgspec.structs.fields(model))


def _writer(name: str, annotation: Any) -> Write:
    kind, _ = bare(annotation)
    target = message_field(name)
    origin = get_origin(kind)
    if origin is tuple:
        return _repeated_writer(name, target, get_args(kind)[0])
    if origin is not None and issubclass(origin, Mapping):

        def write_map(value: Any, message: Any) -> None:
            getattr(message, target).update(getattr(value, name) or {})

        return write_map

    def write(value: Any, message: Any) -> None:
        item = getattr(value, name)
        if item is None:
            return
        if isinstance(item, msgspec.Struct):
            part = getattr(message, target)
            part.SetInParent()
            to_message(item, part)
        elif isinstance(item, datetime):
            getattr(message, target).FromDatetime(item)
        else:
            setattr(message, target, int(item) if isinstance(item, enum.IntEnum) else item)

    return write


def _repeated_writer(name: str, target: str, inner: Any) -> Write:
    def write(value: Any, message: Any) -> None:
        into = getattr(message, target)
        for item in getattr(value, name):
            if isinstance(item, msgspec.Struct):
                to_message(item, into.add())
            elif isinstance(item, tuple):
                into.append(types_pb2.StringList(values=item))
            else:
                into.append(item)

    return write


@cache
def _readers(model: type[msgspec.Struct]) -> tuple[tuple[str, Read], ...]:
    return tuple(
        (field.name, _reader(field.name, field.type)) for field in msgspec.structs.fields(model)
    )


def _reader(name: str, annotation: Any) -> Read:
    kind, optional = bare(annotation)
    source = message_field(name)
    origin = get_origin(kind)
    if origin is tuple:
        return _repeated_reader(source, get_args(kind)[0])
    if origin is not None and issubclass(origin, Mapping):
        return lambda message: dict(getattr(message, source)) or (None if optional else {})
    plain = getattr(kind, "__supertype__", kind)
    convert = _scalar_reader(plain)
    if optional or issubclass(plain, msgspec.Struct | datetime):

        def read_present(message: Any) -> Any:
            return convert(getattr(message, source)) if message.HasField(source) else _UNSET

        return read_present
    return lambda message: convert(getattr(message, source))


def _repeated_reader(source: str, inner: Any) -> Read:
    if get_origin(inner) is tuple:
        return lambda message: tuple(tuple(item.values) for item in getattr(message, source))
    convert = _scalar_reader(getattr(inner, "__supertype__", inner))
    return lambda message: tuple([convert(item) for item in getattr(message, source)])


def _scalar_reader(kind: Any) -> Callable[[Any], Any]:
    if issubclass(kind, msgspec.Struct):
        return lambda item: from_message(item, kind)
    if issubclass(kind, datetime):
        return _instant
    if issubclass(kind, enum.IntEnum):
        return lambda item: kind(item)
    return lambda item: item


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
