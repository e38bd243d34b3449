"""Names parse, print and fail as Docker's reference package has them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.errors import InvalidArgument
from shoal.model.reference import Reference, parse_reference

_HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("bitnami/redis", "docker.io/bitnami/redis", "bitnami/redis"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("ghcr.io/a/b:c", "ghcr.io/a/b:c", "ghcr.io/a/b:c"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("Foo/bar", "Foo/bar", "Foo/bar"),
        (
            f"x:1@sha256:{_HEX}",
            f"docker.io/library/x:1@sha256:{_HEX}",
            f"x:1@sha256:{_HEX}",
        ),
    ],
)
def test_forms(text: str, full: str, familiar: str) -> None:
    parsed = parse_reference(text)
    assert parsed.full == full
    assert parsed.familiar == familiar
    assert parse_reference(parsed.familiar) == parsed
    assert parse_reference(parsed.full) == parsed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "invalid reference format"),
        ("-x", "invalid reference format"),
        ("x:", "invalid reference format"),
        ("x@sha256:abc", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("x y", "invalid reference format"),
        ("x:tag\n", "invalid reference format"),
        ("../x", "invalid reference format"),
        ("Busybox", "repository name (library/Busybox) must be lowercase"),
        ("foo/Bar:x", "repository name (foo/Bar) must be lowercase"),
        (_HEX, "cannot specify 64-byte hexadecimal strings"),
        ("a" * 256, "must not be more than 255 characters"),
        (f"x@sha256:{'a' * 63}", "invalid checksum digest length"),
        (f"x@sha256:{'A' * 64}", "invalid checksum digest format"),
        (f"x@md5:{'a' * 32}", "unsupported digest algorithm"),
    ],
)
def test_refused(text: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert sentence in str(caught.value)


def test_the_default_tag_is_added_only_where_nothing_says_which() -> None:
    assert parse_reference("x").tagged().familiar == "x:latest"
    assert parse_reference("x:1").tagged().familiar == "x:1"
    assert parse_reference(f"x@sha256:{_HEX}").tagged().familiar == f"x@sha256:{_HEX}"


_component = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?", fullmatch=True).filter(
    str.isascii
)
_references = st.builds(
    Reference,
    domain=st.sampled_from(["docker.io", "localhost", "localhost:5000", "ghcr.io", "a.b:1"]),
    path=st.lists(_component, min_size=2, max_size=4).map("/".join),
    tag=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.none() | st.from_regex(r"sha256:[a-f0-9]{64}", fullmatch=True),
)


@given(_references)
def test_both_forms_parse_back_to_the_same(reference: Reference) -> None:
    assert parse_reference(reference.full) == reference
    assert parse_reference(reference.familiar) == reference


@given(st.text(max_size=40))
def test_any_text_either_parses_or_is_refused_with_a_sentence(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        parsed = parse_reference(text)
        assert parse_reference(parsed.familiar) == parsed
