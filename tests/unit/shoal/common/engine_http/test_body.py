"""Request bodies that are no good: each a 400 that says what is wrong where."""

import pytest

from shoal.common.engine_http.body import check_content_type, decode
from shoal.model.errors import InvalidArgument
from shoal.model.spec.service import ServiceSpec


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "got EOF while reading request body"),
        (b"{", "truncated"),
        (b"null", "expected object, got null"),
        (b"{} x", "unexpected content after JSON"),
        (b'{"Name": 1}', "field Name: expected str, got int"),
        (b'{"name": 1}', "field Name: expected str, got int"),
        (b'{"Name": "\xff"}', "not UTF-8"),
        (b'{"Mode": {"Replicated": {"Replicas": "3"}}}', "Replicas: expected int, got str"),
        (b'{"Mode": {"Replicated": {"Replicas": 1e400}}}', "Replicas: expected int, got float"),
        (b'{"UpdateConfig": {"MaxFailureRatio": 1e400}}', "MaxFailureRatio: inf is no number"),
        (b'{"Mode": {"Replicated": {"Replicas": 9223372036854775808}}}', "beyond 64 bits"),
        (b'{"Mode": {"Replicated": {"Replicas": ' + b"9" * 5000 + b"}}}", "out of range"),
        (b'{"Labels": {"a\\u0000": "b"}}', "field Labels: must not contain a NUL"),
        (b'{"Name": "\\ud800"}', "half of a character"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        decode(data, ServiceSpec)


def test_a_body_says_that_it_is_json() -> None:
    check_content_type("application/json; charset=utf-8")
    for other in ("", "text/plain"):
        with pytest.raises(InvalidArgument, match="must be 'application/json'"):
            check_content_type(other)
