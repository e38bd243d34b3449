"""Roles survive, damage is named."""

from pathlib import Path

import pytest

from shoal.host.roles import Etcd, Roles, load_roles, save_roles
from shoal.model.errors import FailedPrecondition


def test_a_host_without_roles_is_a_worker(tmp_path: Path) -> None:
    assert load_roles(tmp_path / "roles.json") == Roles(manager=False, etcd=None)


def test_roles_come_back_as_saved_and_leave_nothing_beside(tmp_path: Path) -> None:
    file = tmp_path / "roles.json"
    roles = Roles(manager=True, etcd=Etcd(("etcd", "--name=a"), {"A": "b"}))
    save_roles(file, roles)
    assert load_roles(file) == roles
    assert list(tmp_path.iterdir()) == [file]


def test_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "roles.json"
    file.write_text("{")
    with pytest.raises(FailedPrecondition, match="is damaged"):
        load_roles(file)
