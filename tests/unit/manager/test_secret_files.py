"""Autolock on disk: the data key lies in the form the cluster wants, and is never lost."""

import stat
from pathlib import Path

import pytest

from manager.secret_files import ManagerFiles
from shoal.common.config import HostConfig
from shoal.common.key_files import is_locked, lock
from shoal.common.unlock_key import parse_unlock_key, unlock_key_text
from shoal.model.errors import InvalidArgument, NotFound, Unauthenticated, Unavailable

KEY = b"d" * 32
FIRST, SECOND = (unlock_key_text(bytes([n]) * 32) for n in (1, 2))


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    (tmp_path / "run").mkdir()
    return HostConfig(state=str(tmp_path / "state"), run=str(tmp_path / "run"))


def texts(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())


def test_a_locked_key_is_not_on_the_disk_and_opens_with_its_unlock_key(
    config: HostConfig,
) -> None:
    files = ManagerFiles(config)
    files.save_data_key(KEY)
    files.keep(KEY, FIRST)
    assert KEY not in texts(Path(config.state))
    assert files.data_key() == KEY
    assert not is_locked(config)
    lock(config)
    assert is_locked(config)
    with pytest.raises(Unavailable, match="docker swarm unlock"):
        files.data_key()
    with pytest.raises(Unauthenticated, match="invalid key provided"):
        files.unlock(SECOND)
    assert is_locked(config)
    files.unlock(FIRST)
    assert files.data_key() == KEY
    assert not is_locked(config)
    for file in (Path(config.run) / "data.key", config.manager_secrets / "data.key.sealed"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_rotated_key_alone_opens_it_and_without_autolock_it_lies_plain_again(
    config: HostConfig,
) -> None:
    files = ManagerFiles(config)
    files.save_data_key(KEY)
    files.keep(KEY, FIRST)
    files.keep(KEY, SECOND)
    lock(config)
    with pytest.raises(Unauthenticated):
        files.unlock(FIRST)
    files.unlock(SECOND)
    files.keep(KEY, "")
    lock(config)
    assert not is_locked(config)
    assert files.data_key() == KEY
    assert [file.name for file in config.manager_secrets.iterdir()] == ["data.key"]


def test_what_does_not_change_is_not_written_again(config: HostConfig) -> None:
    files = ManagerFiles(config)
    files.save_data_key(KEY)
    files.keep(KEY, FIRST)
    before = texts(Path(config.state))
    files.keep(KEY, FIRST)
    assert texts(Path(config.state)) == before


def test_without_any_key_the_host_has_to_join_again(config: HostConfig) -> None:
    with pytest.raises(NotFound, match="join again"):
        ManagerFiles(config).data_key()
    assert not is_locked(config)


@pytest.mark.parametrize("text", ["", "x", "SWMKEY-1-", f"{FIRST}AA", FIRST[9:], "SWMKEY-1-é"])
def test_what_is_no_unlock_key_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgument, match="SWMKEY-1- followed by 43") as refusal:
        parse_unlock_key(text)
    assert refusal.value.field == "UnlockKey"
    assert parse_unlock_key(f" {FIRST}\n") == b"\1" * 32
