"""Bodies that are wrong or strange in one place, made from the type a route decodes.

Every field of the type at every depth is visited. *Wrong* values cannot be of the field's type,
so a route must refuse them and name the place; *strange* ones can, and a route may take them or
refuse them, but never break on them.
"""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw, inspect

Steps = tuple[str | int, ...]

_KEY = "key"
_LONG = "x" * 70_000
_STRANGE_TEXTS = (
    *("", " ", "\0", "a\0b", "\x1b[2J", "a\nb", "../../../etc/passwd", "/", ".", _LONG),
    *(
        "{{",
        "{{.Nothing.There}}",
        "ünï🐳",
        "\u202egnp",
        "%s%n",
        "-1",
        "a,b=c",
        "=",
        ":",
        "a:b:c",
    ),
)
_STRANGE_NUMBERS = (
    *(0, 1, -1, -2, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63)),
    *(2**63, 2**64, -(2**63) - 1),
)
_NO_NUMBERS = (b"1e400", b"NaN", b"Infinity", b"-", b"0x10", b"01", b"1_000")


class Spoiled(msgspec.Struct, frozen=True, kw_only=True):
    """A body, and the one place in it that is not as it should be.

    Attributes:
        wrong: no value of the place's type.
        named: a refusal names the place: the whole of the body is JSON.
    """

    path: str
    value: bytes
    body: bytes
    wrong: bool
    named: bool = False


def spoil(model: type[msgspec.Struct], good: Any) -> Iterator[Spoiled]:
    """All bodies that differ from `good` in one place."""
    for steps, kind in _places(inspect.type_info(model), ()):
        for value in _wrong(kind):
            yield _spoiled(good, steps, value, wrong=True, named=True)
        for value in _strange(kind):
            yield _spoiled(good, steps, value, wrong=False)
        for raw in _NO_NUMBERS if _takes_numbers(kind) else ():
            yield _spoiled(good, steps, Raw(raw), wrong=True)


def _places(kind: inspect.Type, steps: Steps) -> Iterator[tuple[Steps, inspect.Type]]:
    for each in _kinds(kind):
        match each:
            case inspect.StructType():
                for field in each.fields:
                    below = (*steps, field.encode_name)
                    yield below, field.type
                    yield from _places(field.type, below)
            case inspect.VarTupleType() | inspect.ListType():
                yield (*steps, 0), each.item_type
                yield from _places(each.item_type, (*steps, 0))
            case inspect.DictType():
                yield (*steps, _KEY), each.value_type
                yield from _places(each.value_type, (*steps, _KEY))
            case _:
                continue


def _kinds(kind: inspect.Type) -> list[inspect.Type]:
    """What it may be beside null."""
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [each for each in options if not isinstance(each, inspect.NoneType)]


def _takes_numbers(kind: inspect.Type) -> bool:
    return any(isinstance(each, inspect.IntType | inspect.FloatType) for each in _kinds(kind))


def _wrong(kind: inspect.Type) -> list[Any]:
    """JSON values that no kind of it takes."""
    kinds = _kinds(kind)
    if any(isinstance(each, inspect.AnyType | inspect.CustomType) for each in kinds):
        return []
    samples: list[tuple[Any, tuple[type[inspect.Type], ...]]] = [
        ("true", (inspect.StrType, inspect.BytesType)),
        (7, (inspect.IntType, inspect.FloatType)),
        (1.5, (inspect.FloatType,)),
        (True, (inspect.BoolType,)),
        ([], (inspect.VarTupleType, inspect.ListType)),
        ({}, (inspect.StructType, inspect.DictType)),
    ]
    wrong = [v for v, takers in samples if not any(isinstance(k, takers) for k in kinds)]
    if all(isinstance(each, inspect.BytesType) for each in kinds):
        wrong.append("not base64!")
    return wrong


def _strange(kind: inspect.Type) -> Iterator[Any]:
    for each in _kinds(kind):
        match each:
            case inspect.StrType():
                yield from _STRANGE_TEXTS
                yield Raw(b'"\\ud800"')
            case inspect.IntType():
                yield from _STRANGE_NUMBERS
                yield Raw(b"1" * 400)
            case inspect.FloatType():
                yield from (-1, 2, 1e308, -0.0, 5e-324)
            case inspect.BoolType():
                yield from (True, False)
            case inspect.BytesType():
                yield from ("", "AA==", "A" * 80_000)
            case inspect.VarTupleType():
                yield from ([], [_sample(each.item_type)] * 2_000, [None])
            case inspect.DictType():
                sample = _sample(each.value_type)
                yield from ({}, {"": sample}, {"\0": sample}, {_LONG: sample}, {"a": None})
                yield {str(number): sample for number in range(2_000)}
            case inspect.StructType():
                yield from ({}, {"NoSuchField": [1, {"a": None}]})
            case _:
                continue
    yield None


def _sample(kind: inspect.Type) -> Any:
    match _kinds(kind)[0]:
        case inspect.StrType():
            return "a"
        case inspect.IntType() | inspect.FloatType():
            return 1
        case inspect.BoolType():
            return True
        case inspect.VarTupleType() | inspect.ListType():
            return []
        case _:
            return {}


def _spoiled(
    good: Any, steps: Steps, value: Any, *, wrong: bool, named: bool = False
) -> Spoiled:
    encoded = bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)
    body = copy.deepcopy(good)
    _plant(body, steps, Raw(encoded))
    return Spoiled(
        path=path_of(steps),
        value=encoded,
        body=msgspec.json.encode(body),
        wrong=wrong,
        named=named,
    )


def _plant(body: Any, steps: Steps, value: Raw) -> None:
    here = body
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        if following is None:
            deeper: Any = value
        else:
            deeper = [] if isinstance(following, int) else {}
        if isinstance(here, list):
            if not here:
                here.append(deeper)
            elif following is None or type(here[0]) is not type(deeper):
                here[0] = deeper
            here = here[0]
        else:
            if following is None or type(here.get(step)) is not type(deeper):
                here[step] = deeper
            here = here[step]


def path_of(steps: Steps) -> str:
    """As refusals write it: `Mounts[0].Target`, `Labels[...]`."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step == _KEY:
            path += "[...]"
        else:
            path += f".{step}" if path else step
    return path
