"""Query values that are no good, and patterns that would keep the server busy for ever."""

import json
import time

import pytest

from shoal.common.engine_http.query import number, parse_filters
from shoal.model.errors import InvalidArgument

DEEP = "[" * 50_000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "invalid filter: "),
        ("[]", "an object is needed"),
        (DEEP, "nested too deeply"),
        ('{"x":{"a":true}}', "invalid filter 'x'"),
        ('{"name":"a"}', "invalid filter 'name'"),
        ('{"name":{"a":1}}', "invalid filter 'name'"),
        ('{"name":[1]}', "invalid filter 'name'"),
    ],
)
def test_filters_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        parse_filters(text, {"name"})


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "a*a*a*a*a*$", "a{1,9}" * 9, "a?" * 300]
)
def test_a_pattern_that_never_ends_is_refused(pattern: str) -> None:
    filters = parse_filters(json.dumps({"name": [pattern]}), {"name"})
    begun = time.monotonic()
    with pytest.raises(InvalidArgument, match=r"invalid filter 'name=.*takes too long"):
        filters.pattern("name", "a" * 200 + "!")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("we", True),
        ("^/?web$", True),
        ("^(api|web)$", True),
        (r"w[e*+{]b", True),
        ("w.*b.*", True),
        (r"\(web\)*", False),
        ("[", False),
        ("(" * 200, False),
        ("a{99999999999}", False),
    ],
)
def test_patterns_find(pattern: str, found: bool) -> None:
    text = json.dumps({"name": [pattern]})
    assert parse_filters(text, {"name"}).pattern("name", "web") is found


@pytest.mark.parametrize("text", ["x", "1e3", "²", "9" * 5000, "--1", "1.5"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"limit .* is not an integer"):
        number(text, "limit", 0)


def test_numbers() -> None:
    assert (number(None, "limit", 7), number("", "limit", 7), number("-5", "limit", 0)) == (
        7,
        7,
        -5,
    )
