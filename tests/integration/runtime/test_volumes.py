"""Volumes with options on the real kernel: what they mount, for how long, and what is kept."""

import os
from pathlib import Path

import pytest

from agent.engine.records import MountPoint, Record
from agent.engine.volume_mounts import VolumeMounts
from agent.volumes import Volume, Volumes, is_mounted
from shoal.common.clock import SystemClock
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import InvalidArgument, Unimplemented

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root for mounts"),
]


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path / "volumes", SystemClock())


def user_of(volume: Volume, identity: str) -> Record:
    mount = MountPoint(type="volume", name=volume.name, destination="/v")
    return Record(
        id=identity,
        name=identity,
        created_at=SystemClock().now(),
        image_id="",
        config=ContainerConfig(),
        host_config=HostConfig(),
        command=(),
        mounts=(mount,),
    )


async def test_a_directory_of_the_host_outlives_its_volume(
    volumes: Volumes, tmp_path: Path
) -> None:
    behind = tmp_path / "be hind"
    behind.mkdir()
    volume = volumes.ensure("v", options={"type": "none", "o": "bind", "device": str(behind)})
    mounts = VolumeMounts(volumes)
    await mounts.mount(user_of(volume, "a"))
    try:
        assert is_mounted(volume.mountpoint)
        (Path(volume.mountpoint) / "kept").touch()
    finally:
        volumes.remove("v", [])
    assert (behind / "kept").exists()
    assert "v" not in [each.name for each in volumes]


async def test_it_is_mounted_from_the_first_run_to_the_last(volumes: Volumes) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=700"}
    volume = volumes.ensure("v", options=options)
    first, second = user_of(volume, "a"), user_of(volume, "b")
    mounts = VolumeMounts(volumes)
    try:
        for each in (first, second, second):
            await mounts.mount(each)
        assert os.statvfs(volume.mountpoint).f_blocks * os.statvfs(
            volume.mountpoint
        ).f_bsize == (1 << 20)
        mounts = VolumeMounts(volumes)  # of the next agent
        mounts.keep(first)
        mounts.keep(second)
        await mounts.unmount(first)
        assert is_mounted(volume.mountpoint)
        await mounts.unmount(second)
        assert not is_mounted(volume.mountpoint)
        await mounts.unmount(second)
    finally:
        volumes.remove("v", [])


async def test_what_cannot_be_mounted_says_why(volumes: Volumes) -> None:
    options = {"type": "none", "o": "bind", "device": "/nowhere at all"}
    volume = volumes.ensure("v", options=options)
    with pytest.raises(
        InvalidArgument, match=r"failed to mount local volume v: .*nowhere at all"
    ):
        await VolumeMounts(volumes).mount(user_of(volume, "a"))
    volumes.remove("v", [])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "/a"}, 'missing required option: "type"'),
        (
            {"type": "none", "device": "/a", "x": "1"},
            'invalid option: "x": the local driver has',
        ),
    ],
)
def test_options_that_cannot_be(
    volumes: Volumes, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        volumes.ensure("v", options=options)
    with pytest.raises(Unimplemented, match="quotas"):
        volumes.ensure("v", options={"size": "1g"})
    assert list(volumes) == []
