"""Following a real container's log while it is rotated: nothing lost, nothing twice."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.logs import LogQuery, Rotator, read
from agent.runtime.oci.runtime import OciRuntime
from tests.contract.busybox import make_bundle, make_request
from tests.integration.runtime.test_adoption import Host, host

__all__ = ["host"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root for cgroups and namespaces"),
    pytest.mark.timeout(30),
]

SCRIPT = "i=0; while [ $i -lt 6000 ]; do echo $i; i=$((i+1)); done; printf end"


async def test_following_survives_rotation(host: Host, tmp_path: Path) -> None:
    request = make_request(host.rootfs, host.parent, "sh", "-c", SCRIPT)
    bundle = make_bundle(request, tmp_path / "containers")
    ended = asyncio.Event()
    async with host.agent() as runtime, asyncio.TaskGroup() as group:
        await runtime.create(bundle)
        rotator = Rotator(bundle.logs, bundle.directory, max_size=60_000, max_files=50)
        rotating = group.create_task(rotator.run())
        following = group.create_task(collect(bundle.directory, ended))
        await runtime.start(bundle.id)
        await end(runtime, bundle.id, ended)
        lines = await following
        rotating.cancel()
        await runtime.delete(bundle.id)
    expected = [b"%d\n" % number for number in range(6000)] + [b"end"]
    assert lines == expected
    assert list(bundle.directory.glob("log.*"))  # how many depends on the machine's pace
    assert await collect(bundle.directory, ended) == expected


async def collect(directory: Path, ended: asyncio.Event) -> list[bytes]:
    return [line.data async for line in read(directory, LogQuery(follow=True), ended)]


async def end(runtime: OciRuntime, container: str, ended: asyncio.Event) -> None:
    assert (await runtime.wait(container)).code == 0
    ended.set()
