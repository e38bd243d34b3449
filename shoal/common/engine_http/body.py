"""Request bodies: JSON of a known shape, read as Go reads it. Pure.

Keys fold to the model's spelling, unknown ones are ignored; everything else that is wrong is a
400 whose sentence names the field's path.
"""

import re
from typing import TypeVar

import msgspec

from shoal.model.errors import InvalidArgument
from shoal.model.names import fold_keys
from shoal.model.validate.limits import first_fault

T = TypeVar("T", bound=msgspec.Struct)

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_DECODER = msgspec.json.Decoder(float_hook=float)  # so that 1e400 is refused by its field
_AT = re.compile(r"(.*) - at `(?:key in )?\$\.?(.*)`", re.DOTALL)


def check_content_type(content_type: str) -> None:
    """Refuse a body that does not call itself JSON."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidArgument(
            f"unsupported Content-Type header ({content_type}): must be 'application/json'"
        )


def decode(data: bytes, model: type[T]) -> T:
    """The body as `model`.

    Raises:
        InvalidArgument: empty, malformed, followed by garbage, or of a wrong type somewhere.
    """
    if not data.strip():
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    try:
        raw = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidArgument(_malformed(str(error), data)) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument("invalid JSON: the body is not UTF-8") from error
    except RecursionError as error:
        raise InvalidArgument("invalid JSON: it is nested too deeply") from error
    return convert(raw, model)


def convert(raw: object, model: type[T]) -> T:
    """An already decoded body as `model`, keys in any case."""
    try:
        made = msgspec.convert(fold_keys(raw, model), model)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from error
    if (fault := first_fault(made)) is not None:
        path, sentence = fault
        raise InvalidArgument(f"invalid JSON: field {path}: {sentence}", field=path)
    return made


def _malformed(sentence: str, data: bytes) -> str:
    if "trailing characters" in sentence:
        return "unexpected content after JSON"
    if _HALF.search(data) and ("surrogate" in sentence or "truncated" in sentence):
        return "invalid JSON: a \\u escape is half of a character (a lone surrogate)"
    return f"invalid JSON: {_plain(sentence)}"


def _refusal(sentence: str) -> InvalidArgument:
    match = _AT.fullmatch(sentence)
    if match is None:
        return InvalidArgument(f"invalid JSON: {_plain(sentence)}")
    return InvalidArgument(
        f"invalid JSON: field {match[2]}: {_plain(match[1])}", field=match[2]
    )


def _plain(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].replace("`", "").replace(" | null", "")
