"""Query values as Docker reads them: booleans, numbers, filters. Pure.

Filters come as `{"key": {"value": true}}`, from old clients as `{"key": ["value"]}`; a handler
names the keys it knows and all others are refused.
"""

import json
import re
from collections.abc import Collection, Mapping

from shoal.model.errors import InvalidArgument
from shoal.model.numbers import whole

_FALSE = frozenset({"", "0", "no", "false", "none"})
_LONGEST_PATTERN = 256
_MOST_REPEATS = 3
_LITERAL = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_REPEAT = re.compile(r"[*+{]")


def flag(text: str | None, *, default: bool = False) -> bool:
    """Docker's booleans: everything is true but "", "0", "no", "false" and "none"."""
    return default if text is None else text.strip().lower() not in _FALSE


def number(text: str | None, name: str, default: int) -> int:
    """An integer, or `default` where the query does not name it."""
    if text is None or text == "":
        return default
    found = whole(text.removeprefix("-"))
    if found is None:
        raise InvalidArgument(f"{name} {text!r} is not an integer", field=name)
    return -found if text.startswith("-") else found


class Filters:
    """The parsed `filters` of a list request."""

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = dict(values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> tuple[str, ...]:
        """All values of a key, none if it was not given."""
        return self._values.get(key, ())

    def exact(self, key: str, *candidates: str) -> bool:
        """Not asked for, or one of the values is one of the candidates."""
        return key not in self._values or any(c in self._values[key] for c in candidates)

    def prefix(self, key: str, candidate: str) -> bool:
        """Not asked for, or the candidate begins with one of the values."""
        return key not in self._values or any(
            candidate.startswith(v) for v in self._values[key]
        )

    def pattern(self, key: str, *candidates: str) -> bool:
        """Not asked for, or a value, read as a regular expression, is found in a candidate."""
        if key not in self._values:
            return True
        return any(_found(key, value, c) for value in self._values[key] for c in candidates)

    def labels(self, labels: Mapping[str, str], key: str = "label") -> bool:
        """Every `name` or `name=value` asked for is among the labels."""
        for wanted in self.get(key):
            name, equals, value = wanted.partition("=")
            if name not in labels or (equals and labels[name] != value):
                return False
        return True

    def truth(self, key: str) -> bool | None:
        """A boolean filter; None where it was not given."""
        values = {v.lower() for v in self.get(key)}
        if not values:
            return None
        if values <= {"1", "true", "t"}:
            return True
        if values <= {"0", "false", "f"}:
            return False
        given = ", ".join(self.get(key))
        raise InvalidArgument(
            f"invalid filter '{key}={given}': true or false is needed", field=f"filters.{key}"
        )


def parse_filters(text: str | None, known: Collection[str]) -> Filters:
    """Read the `filters` parameter; a key outside `known` is refused."""
    if not text:
        return Filters({})
    try:
        raw = json.loads(text)
    except RecursionError as error:
        raise InvalidArgument(
            "invalid filter: it is nested too deeply", field="filters"
        ) from error
    except ValueError as error:
        raise InvalidArgument(f"invalid filter: {error}", field="filters") from error
    if not isinstance(raw, dict):
        raise InvalidArgument("invalid filter: an object is needed", field="filters")
    values: dict[str, tuple[str, ...]] = {}
    for key, given in raw.items():
        if key not in known:
            raise InvalidArgument(f"invalid filter '{key}'", field=f"filters.{key}")
        values[key] = _values(key, given)
    return Filters(values)


def _values(key: str, given: object) -> tuple[str, ...]:
    if isinstance(given, dict) and all(isinstance(v, bool) for v in given.values()):
        return tuple(value for value, wanted in given.items() if wanted)
    if isinstance(given, list) and all(isinstance(v, str) for v in given):
        return tuple(given)
    raise InvalidArgument(
        f"invalid filter '{key}': values must be an object of booleans or a list of strings",
        field=f"filters.{key}",
    )


def _found(key: str, value: str, candidate: str) -> bool:
    if value in candidate:
        return True
    if _is_costly(value):
        raise InvalidArgument(
            f"invalid filter '{key}={value}': it takes too long to match: repeat no group, and"
            f" no more than {_MOST_REPEATS} parts",
            field=f"filters.{key}",
        )
    try:
        return re.search(value, candidate) is not None
    except (re.error, OverflowError):
        return False


def _is_costly(pattern: str) -> bool:
    """Whether matching may go back and forth without end, unlike Go's, which never does."""
    plain = _LITERAL.sub("x", pattern)
    return (
        len(pattern) > _LONGEST_PATTERN
        or _REPEATED_GROUP.search(plain) is not None
        or len(_REPEAT.findall(plain)) > _MOST_REPEATS
    )
