"""Overlay mounts, and images that try to lead the agent out of them."""

import os
import stat
from pathlib import Path

import pytest

from agent.runtime.oci.request import User
from agent.runtime.oci.rootfs import (
    block_device,
    host_devices,
    make_workdir,
    mount,
    resolve_user,
    sweep,
    unmount,
)
from shoal.model.errors import InvalidArgument

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root for mounts"),
]


def layers(path: Path, count: int) -> list[Path]:
    made = []
    for number in range(count):
        layer = path / "layers" / f"{number:064d}"
        layer.mkdir(parents=True)
        (layer / "top").write_text(str(number))
        (layer / f"of-{number}").touch()
        made.append(layer)
    return made


@pytest.mark.parametrize("count", [1, 40])
def test_the_first_layer_is_the_topmost(tmp_path: Path, count: int) -> None:
    place = tmp_path / "c"
    merged = mount(place, layers(tmp_path, count))
    try:
        assert mount(place, []) == merged
        assert (merged / "top").read_text() == "0"
        assert len(list(merged.glob("of-*"))) == count
        (merged / "new").touch()
    finally:
        unmount(place)
    unmount(place)
    assert (place / "upper/new").exists()
    assert not list(merged.iterdir())


def test_mounts_of_gone_containers_are_swept(tmp_path: Path) -> None:
    lower = layers(tmp_path, 1)
    for name in ("kept", "gone"):
        mount(tmp_path / "all" / name, lower)
    try:
        assert sweep(tmp_path / "all", ["kept"]) == [tmp_path / "all/gone"]
        assert os.path.ismount(tmp_path / "all/kept/merged")
    finally:
        for name in ("kept", "gone"):
            unmount(tmp_path / "all" / name)


def test_nothing_leads_out_of_an_image(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("evil:x:7:7::/:/bin/sh\n")
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    (rootfs / "etc/passwd").symlink_to(outside / "passwd")
    (rootfs / "link").symlink_to(outside)
    with pytest.raises(InvalidArgument, match="unable to find user evil"):
        resolve_user(rootfs, "evil")
    assert resolve_user(rootfs, "") == User()
    with pytest.raises(InvalidArgument):
        make_workdir(rootfs, "/link/made")
    assert [path.name for path in outside.iterdir()] == ["passwd"]
    make_workdir(rootfs, "/a/b")
    assert (rootfs / "a/b").is_dir()


def test_devices_of_the_host(tmp_path: Path) -> None:
    for name, kind, number in (
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("console", stat.S_IFCHR, os.makedev(5, 1)),
        ("in/ram", stat.S_IFBLK, os.makedev(1, 0)),
        ("pts/0", stat.S_IFCHR, os.makedev(1, 3)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mknod(tmp_path / name, 0o600 | kind, number)
    (tmp_path / "log").touch()
    (tmp_path / "link").symlink_to("null")
    found = [(each.path, each.kind, each.mode) for each in host_devices(tmp_path)]
    assert found == [(f"{tmp_path}/null", "c", 0o600), (f"{tmp_path}/in/ram", "b", 0o600)]
    assert block_device(f"{tmp_path}/in/ram") == (1, 0)
    for wrong in ("null", "nowhere"):
        with pytest.raises(InvalidArgument, match=wrong):
            block_device(f"{tmp_path}/{wrong}")
