from pathlib import Path

import pytest

from shoal.cli.sandbox.plan import SandboxPlan
from shoal.cli.sandbox.registry import Registry
from shoal.model.errors import Internal, NotFound


def plan(base: Path, name: str) -> SandboxPlan:
    return SandboxPlan(name=name, subnet=3, managers=1, workers=0, uplink=False, base=base)


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.save(plan(tmp_path, "b"))
    registry.save(plan(tmp_path, "a"))
    assert registry.get("a") == plan(tmp_path, "a")
    assert [found.name for found in registry.list()] == ["a", "b"]


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none")
    assert registry.find("a") is None
    assert registry.list() == []
    with pytest.raises(NotFound, match="shoal sandbox up --name a"):
        registry.get("a")


def test_a_directory_without_a_record_is_no_sandbox(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert Registry(tmp_path).list() == []


def test_a_broken_record_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "sandbox.json").write_text("{")
    with pytest.raises(Internal, match=r"sandbox\.json cannot be read"):
        Registry(tmp_path).find("a")
