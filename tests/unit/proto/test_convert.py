"""The converter is total: every field has a partner, and what goes over comes back."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_origin

import msgspec
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto import types_pb2
from proto.convert import bare, from_message, message_field, to_message
from shoal.model.assignment import Difference, Stamp
from shoal.model.objects import NodeReport, TaskStatus

ROOTS: list[tuple[type[msgspec.Struct], type[Message]]] = [
    (Difference, types_pb2.Difference),
    (Stamp, types_pb2.Stamp),
    (NodeReport, types_pb2.NodeReport),
    (TaskStatus, types_pb2.TaskStatus),
]


def structs_of(model: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {model.__name__: model}
    for field in msgspec.structs.fields(model):
        kind, _ = bare(field.type)
        for inner in (kind, *get_args(kind)):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                found |= structs_of(inner)
    return found


@pytest.mark.parametrize(("model", "message"), ROOTS)
def test_every_field_has_a_partner(model: type[msgspec.Struct], message: type[Message]) -> None:
    for name, struct in structs_of(model).items():
        descriptor = types_pb2.DESCRIPTOR.message_types_by_name[name]
        ours = {message_field(field.name) for field in msgspec.structs.fields(struct)}
        theirs = {field.name for field in descriptor.fields}
        assert ours == theirs, name


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    kind, optional = bare(annotation)
    found = _values(kind)
    return st.one_of(st.none(), found) if optional else found


def _values(kind: Any) -> st.SearchStrategy[Any]:
    origin = get_origin(kind)
    if origin is tuple:
        return st.lists(_values(get_args(kind)[0]), max_size=2).map(tuple)
    if origin is not None:
        return st.dictionaries(st.text(max_size=3), st.text(max_size=3), min_size=1, max_size=2)
    kind = getattr(kind, "__supertype__", kind)
    if issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return st.fixed_dictionaries({f.name: values_of(f.type) for f in fields}).map(
            lambda values: kind(**values)
        )
    if issubclass(kind, datetime):
        span = timedelta(days=365 * 200)
        start = datetime(1970, 1, 1, tzinfo=UTC)
        return st.timedeltas(timedelta(), span).map(lambda since: start + since)
    return st.from_type(kind) if kind is not int else st.integers(0, 2**62)


@pytest.mark.parametrize(("model", "message"), ROOTS)
def test_there_and_back(model: type[msgspec.Struct], message: type[Message]) -> None:
    # the time that a value takes to make is the machine's, not the converter's
    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(_values(model))
    def check(value: msgspec.Struct) -> None:
        assert from_message(to_message(value, message()), model) == value

    check()
