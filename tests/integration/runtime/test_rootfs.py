"""Overlay mounts, and images that try to lead the agent out of them."""

import os
from pathlib import Path

import pytest

from agent.runtime.oci.request import User
from agent.runtime.oci.rootfs import make_workdir, mount, resolve_user, sweep, unmount
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
