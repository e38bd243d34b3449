"""Choosing among platforms, and refusing documents that do not fit."""

import pytest

from agent.images.image import Platform, parse_platform
from agent.images.manifest import (
    Descriptor,
    Index,
    choose,
    digest_of,
    parse_config,
    parse_manifest,
)
from shoal.model.errors import InvalidArgument, NotFound, Unimplemented


def index(*platforms: str) -> Index:
    entries = tuple(
        Descriptor(digest=digest_of(text.encode()), size=1, platform=parse_platform(text))
        for text in platforms
    )
    return Index(schema_version=2, manifests=entries)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v8", "linux/arm/v7"),
    ],
)
def test_chosen(wanted: str, chosen: str) -> None:
    every = index("linux/arm/v6", "linux/amd64", "linux/arm/v7", "linux/arm64", "windows/amd64")
    assert choose(every, parse_platform(wanted)).platform == parse_platform(chosen)


def test_none_fits() -> None:
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x"):
        choose(index("linux/amd64"), Platform(os="linux", architecture="s390x"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc","size":1}]}',
        b'{"schemaVersion":2,"config":{"digest":"x","size":1},"layers":[]}',
    ],
)
def test_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_manifest(content)


def test_ancient_manifests_are_refused_with_advice() -> None:
    with pytest.raises(Unimplemented, match="schema 1"):
        parse_manifest(b'{"schemaVersion":1,"fsLayers":[]}')


def test_a_configuration_with_nulls_is_read() -> None:
    document = parse_config(b'{"config":{"Cmd":null,"Labels":null},"rootfs":{"diff_ids":null}}')
    assert document.config is not None
    assert document.config.cmd is None
    with pytest.raises(InvalidArgument):
        parse_config(b'{"rootfs":{"diff_ids":["../../x"]}}')
