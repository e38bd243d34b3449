"""Which path is meant, what its archive is called, and what differs from an image."""

import os
from pathlib import Path

import pytest

from agent.engine.changes import ADDED, DELETED, MODIFIED, find
from agent.engine.copying import _named


@pytest.mark.parametrize(
    ("asked", "path", "name"),
    [
        ("/etc/passwd", "/etc/passwd", "passwd"),
        ("etc", "/etc", "etc"),
        ("/etc/", "/etc/", "etc"),
        ("/etc/.", "/etc/.", "."),
        ("/", "/", "/"),
        ("/.", "/.", "."),
        ("/a/../../b", "/b", "b"),
    ],
)
def test_paths_keep_what_dockers_rules_look_at(asked: str, path: str, name: str) -> None:
    assert _named(asked) == {"path": path, "name": name}


def test_changes_are_told_apart(tmp_path: Path) -> None:
    upper, top, base = (tmp_path / name for name in ("upper", "top", "base"))
    for place in (upper / "etc", upper / "new", top / "etc", base / "etc", base / "usr"):
        place.mkdir(parents=True)
    (base / "etc/passwd").write_text("image's")
    for file in (upper / "etc/passwd", upper / "etc/hosts", upper / "new/file"):
        file.write_text("changed")
    found = find(upper, (top, base), ["/mnt"])
    assert found == [
        (MODIFIED, "/etc"),
        (MODIFIED, "/etc/passwd"),
        (ADDED, "/new"),
        (ADDED, "/new/file"),
    ]


def test_places_of_mounts_are_no_changes(tmp_path: Path) -> None:
    upper, base = tmp_path / "upper", tmp_path / "base"
    for place in (upper / "etc", upper / "mnt", base / "etc"):
        place.mkdir(parents=True)
    (upper / "etc/hosts").write_text("")
    assert find(upper, (base,), ["/mnt"]) == []
    assert find(tmp_path / "never started", (base,), []) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: whiteouts are devices")
def test_whiteouts_delete_and_hide(tmp_path: Path) -> None:
    upper, top, base = (tmp_path / name for name in ("upper", "top", "base"))
    for place in (upper / "d", top / "d", base / "d"):
        place.mkdir(parents=True)
    (base / "d/gone").write_text("")
    (base / "d/again").write_text("")
    (upper / "d/again").write_text("")
    os.mknod(upper / "d/gone", 0o600 | 0o020000, os.makedev(0, 0))
    os.mknod(top / "d/again", 0o600 | 0o020000, os.makedev(0, 0))
    found = find(upper, (top, base), [])
    assert found == [(MODIFIED, "/d"), (ADDED, "/d/again"), (DELETED, "/d/gone")]
