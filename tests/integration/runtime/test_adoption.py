"""A restarted agent takes its containers back: running, ended while it was away, half made."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.logs import LogQuery, read
from agent.runtime.oci import cgroups, conmon
from agent.runtime.oci.runtime import LOST, OciRuntime, OciSettings
from agent.runtime.runtime import Bundle
from shoal.common.clock import SystemClock
from tests.contract.busybox import make_bundle, make_request, make_rootfs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root for cgroups and namespaces"),
    pytest.mark.timeout(30),
]

# An agent of its own: makes one container, says so, and waits to be killed.
AGENT = """
import asyncio, sys
from pathlib import Path
import msgspec
from agent.runtime.oci.runtime import OciRuntime, OciSettings
from agent.runtime.runtime import Bundle
from shoal.common.clock import SystemClock

async def main(root, parent, bundle):
    settings = OciSettings(root=Path(root), cgroup_parent=parent)
    async with OciRuntime(settings, SystemClock()) as runtime:
        await runtime.create(bundle)
        await runtime.start(bundle.id)
        print("started", flush=True)
        await asyncio.Event().wait()

def path(kind, text):
    return Path(text)

text = Path(sys.argv[3]).read_bytes()
bundle = msgspec.json.decode(text, type=Bundle, dec_hook=path)
asyncio.run(main(sys.argv[1], sys.argv[2], bundle))
"""


class Host:
    """A place for agents that come and go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parent = f"/shoaltest-{secrets.token_hex(3)}"
        self.rootfs = make_rootfs(path / "rootfs")
        self.settings = OciSettings(root=path / "run", cgroup_parent=self.parent)

    def bundle(self, script: str) -> Bundle:
        request = make_request(self.rootfs, self.parent, "sh", "-c", script)
        return make_bundle(request, self.path / "containers")

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[OciRuntime]:
        async with OciRuntime(self.settings, SystemClock()) as runtime:
            yield runtime

    async def killed_agent(self, bundle: Bundle) -> None:
        """Start the container under an agent that is then killed -9."""
        file = self.path / "bundle.json"
        file.write_bytes(msgspec.json.encode(bundle, enc_hook=str))
        words = (str(self.settings.root), self.parent, str(file))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AGENT, *words, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"started\n"
        process.kill()
        await process.wait()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    try:
        yield made
    finally:
        hierarchies = cgroups.detect()
        cgroups.kill_all(hierarchies, made.parent)
        for _ in range(500):
            if cgroups.remove(hierarchies, made.parent):
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("cgroups are left over")


async def test_a_running_container_is_adopted(host: Host) -> None:
    bundle = host.bundle(
        "trap 'exit 9' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
    )
    await host.killed_agent(bundle)
    async with host.agent() as runtime:
        found = await runtime.adopt(bundle)
        assert found is not None
        assert found.running
        assert found.exit is None
        assert found.pid in await runtime.pids(bundle.id)
        attachment = await runtime.attach(bundle.id)
        async for _ in attachment:
            break
        await attachment.detach()
        await runtime.kill(bundle.id, signal.SIGTERM)
        ended = await runtime.wait(bundle.id)
        assert (ended.code, ended.lost) == (9, False)
        await runtime.delete(bundle.id)
    done = asyncio.Event()
    done.set()
    numbers = [int(line.data) async for line in read(bundle.directory, LogQuery(), done)]
    assert numbers == list(range(len(numbers)))


async def test_an_end_while_away_is_known(host: Host) -> None:
    bundle = host.bundle("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; exit 6")
    await host.killed_agent(bundle)
    exits = bundle.directory / conmon.EXITS / bundle.id
    async with asyncio.timeout(10):
        while not exits.exists():  # noqa: ASYNC110 - the kernel gives no event
            await asyncio.sleep(0.01)
    async with host.agent() as runtime:
        found = await runtime.adopt(bundle)
        assert found is not None
        assert not found.running
        assert found.exit is not None
        assert (found.exit.code, found.exit.lost) == (6, False)
        assert (await runtime.wait(bundle.id)) == found.exit
        await runtime.delete(bundle.id)
        assert not list((host.settings.root / "runc").iterdir())
    done = asyncio.Event()
    done.set()
    lines = [line.data async for line in read(bundle.directory, LogQuery(), done)]
    assert lines == [b"%d\n" % number for number in range(3000)]


async def test_after_a_power_cut_the_exit_is_lost(host: Host) -> None:
    bundle = host.bundle("sleep 60")
    await host.killed_agent(bundle)
    state = bundle.directory / conmon.STATE
    old = msgspec.json.decode(state.read_bytes())
    for name in ("init", "conmon"):
        os.kill(old[name]["pid"], signal.SIGKILL)
    state.write_bytes(msgspec.json.encode(old | {"boot": "another"}))
    async with host.agent() as runtime:
        found = await runtime.adopt(bundle)
        assert found is not None
        assert found.exit is not None
        assert (found.running, found.exit.code, found.exit.lost) == (False, LOST, True)
        await runtime.delete(bundle.id)


async def test_a_created_container_is_neither_running_nor_ended(host: Host) -> None:
    bundle = host.bundle("exit 3")
    async with host.agent() as runtime:
        await runtime.create(bundle)
    async with host.agent() as runtime:
        found = await runtime.adopt(bundle)
        assert found is not None
        assert (found.running, found.exit) == (False, None)
        await runtime.start(bundle.id)
        assert (await runtime.wait(bundle.id)).code == 3
        await runtime.delete(bundle.id)


async def test_a_half_made_container_is_swept_away(host: Host) -> None:
    bundle = host.bundle("sleep 60")
    async with host.agent() as runtime:
        await runtime.create(bundle)
    (bundle.directory / conmon.STATE).unlink()
    async with host.agent() as runtime:
        assert await runtime.adopt(bundle) is None
        assert not list((host.settings.root / "runc").iterdir())
        await runtime.create(bundle)
        await runtime.delete(bundle.id)


async def test_without_conmon_the_exit_is_lost(host: Host) -> None:
    bundle = host.bundle("sleep 60")
    async with host.agent() as runtime:
        await runtime.create(bundle)
        await runtime.start(bundle.id)
        os.kill(int((bundle.directory / conmon.CONMON_PID).read_text()), signal.SIGKILL)
        await runtime.kill(bundle.id, signal.SIGKILL)
        ended = await runtime.wait(bundle.id)
        assert (ended.code, ended.lost) == (LOST, True)
        await runtime.delete(bundle.id)
