"""What skopeo complains about, in the Docker Engine's words."""

import pytest

from agent.images.skopeo import explain, is_loopback
from shoal.model.errors import (
    Internal,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from shoal.model.reference import parse_reference

_X = parse_reference("r.example/x:1")


@pytest.mark.parametrize(
    ("text", "given", "kind", "part"),
    [
        ("manifest unknown: manifest unknown", False, NotFound, "manifest for r.example/x:1"),
        ("errors: denied: requested access is denied", False, NotFound, "pull access denied"),
        ("unauthorized: authentication required", True, NotFound, "pull access denied"),
        ("x: invalid username/password: unauthorized", True, Unauthenticated, "incorrect"),
        ("x: invalid username/password: unauthorized", False, NotFound, "pull access denied"),
        ("toomanyrequests: You have reached", False, ResourceExhausted, "limits requests"),
        ("pinging: dial tcp 10.0.0.1:443: no route to host", False, Unavailable, "no route"),
        ("something odd", False, Internal, "could not be pulled: something odd"),
    ],
)
def test_explained(text: str, given: bool, kind: type[Exception], part: str) -> None:
    error = explain(_X, f'time="now" level=fatal msg="{text}"\n', given=given)
    assert type(error) is kind
    assert part in str(error)


def test_loopback_registries_may_speak_plain_http() -> None:
    assert all(map(is_loopback, ("localhost", "localhost:5000", "127.0.0.9:1", "[::1]:5000")))
    assert not any(map(is_loopback, ("docker.io", "localhost.example", "10.0.0.1:5000")))
