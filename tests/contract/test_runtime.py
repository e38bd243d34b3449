"""What every container runtime must do, run against the OCI driver on the real kernel."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.runtime.controller import RuntimeFailure
from agent.runtime.oci import cgroups
from agent.runtime.oci.process import ExecRequest, exec_process
from agent.runtime.oci.request import ContainerRequest
from agent.runtime.oci.runtime import OciRuntime, OciSettings
from agent.runtime.runtime import (
    STDERR,
    STDOUT,
    Attachment,
    Bundle,
    ExecSpec,
    LogPolicy,
    Runtime,
)
from shoal.common.clock import SystemClock
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import Conflict, FailedPrecondition, NotFound
from tests.contract.busybox import make_bundle, make_request, make_rootfs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root for cgroups and namespaces"),
    pytest.mark.timeout(30),
]

Make = Callable[..., tuple[ContainerRequest, Bundle]]


@pytest.fixture
def parent() -> str:
    return f"/shoaltest-{secrets.token_hex(3)}"


@pytest.fixture
async def runtime(tmp_path: Path, parent: str) -> AsyncIterator[OciRuntime]:
    settings = OciSettings(root=tmp_path / "run", cgroup_parent=parent)
    try:
        async with OciRuntime(settings, SystemClock()) as made:
            yield made
            for container in list(made.containers()):
                await made.delete(container)
        assert not list((tmp_path / "run" / "runc").iterdir())
    finally:
        hierarchies = cgroups.detect()
        left = [p for p in hierarchies.directory("pids", parent).glob("*") if p.is_dir()]
        cgroups.kill_all(hierarchies, parent)
        deadline = asyncio.get_running_loop().time() + 5
        while not cgroups.remove(hierarchies, parent):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        assert [path.name for path in left] in ([], ["conmon"])


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    return make_rootfs(tmp_path / "rootfs")


@pytest.fixture
def make(tmp_path: Path, rootfs: Path, parent: str) -> Make:
    def made(
        *command: str, host: HostConfig | None = None, config: ContainerConfig | None = None
    ) -> tuple[ContainerRequest, Bundle]:
        request = make_request(rootfs, parent, *command, host=host, config=config)
        return request, make_bundle(request, tmp_path / "containers")

    return made


async def run(runtime: Runtime, bundle: Bundle) -> tuple[int, str, str]:
    """Create, attach, start, read to the end: exit code, stdout, stderr."""
    await runtime.create(bundle)
    attachment = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    said = await collect(attachment)
    ended = await runtime.wait(bundle.id)
    return ended.code, said[STDOUT].decode(), said[STDERR].decode()


async def collect(attachment: Attachment) -> dict[int, bytes]:
    said = {STDOUT: b"", STDERR: b""}
    async for stream, data in attachment:
        said[stream] += data
    return said


async def until(attachment: Attachment, marker: bytes) -> bytes:
    said = b""
    async for _, data in attachment:
        said += data
        if marker in said:
            return said
    raise AssertionError(f"{marker!r} never came, but {said!r}")


async def test_output_and_exit_code_are_kept(runtime: OciRuntime, make: Make) -> None:
    _, bundle = make("sh", "-c", "echo out; echo err >&2; exit 42")
    assert await run(runtime, bundle) == (42, "out\n", "err\n")
    lines = (bundle.directory / "log").read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out"]
    await runtime.delete(bundle.id)
    await runtime.delete(bundle.id)
    with pytest.raises(NotFound):
        await runtime.wait(bundle.id)


async def test_output_that_is_not_kept_still_reaches_who_is_attached(
    runtime: OciRuntime, make: Make
) -> None:
    _, bundle = make("echo", "out")
    unkept = replace(bundle, log=LogPolicy(kept=False))
    assert await run(runtime, unkept) == (0, "out\n", "")
    assert not (unkept.directory / "log").exists()
    await runtime.delete(unkept.id)


async def test_a_container_can_be_made_again_in_its_directory(
    runtime: OciRuntime, make: Make
) -> None:
    _, bundle = make("sh", "-c", "echo again")
    for _ in range(2):
        assert (await run(runtime, bundle))[:2] == (0, "again\n")
        await runtime.delete(bundle.id)
    assert (bundle.directory / "log").read_text().count("again") == 2


@pytest.mark.parametrize(
    ("word", "code", "text"),
    [
        ("/nosuch", 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_what_cannot_run_is_said_in_dockers_words(
    runtime: OciRuntime, make: Make, word: str, code: int, text: str
) -> None:
    _, bundle = make(word)
    with pytest.raises(RuntimeFailure) as failure:
        await runtime.create(bundle)
    assert failure.value.exit_code == code
    assert str(failure.value) == (
        "failed to create task for container: failed to create shim task: OCI runtime create "
        f"failed: runc create failed: unable to start container process: {text}: unknown"
    )
    assert not runtime.containers()


async def test_signals_and_states(runtime: OciRuntime, make: Make) -> None:
    _, bundle = make("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    await runtime.create(bundle)
    with pytest.raises(Conflict):
        await runtime.kill(bundle.id, signal.SIGTERM)
    attachment = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    with pytest.raises(Conflict):
        await runtime.start(bundle.id)
    await until(attachment, b"ready")
    await runtime.pause(bundle.id)
    with pytest.raises(Conflict):
        await runtime.pause(bundle.id)
    await runtime.resume(bundle.id)
    assert len(await runtime.pids(bundle.id)) in {1, 2}
    await runtime.kill(bundle.id, signal.SIGTERM)
    assert (await runtime.wait(bundle.id)).code == 7
    with pytest.raises(Conflict):
        await runtime.kill(bundle.id, signal.SIGTERM)
    with pytest.raises(Conflict):
        await runtime.attach(bundle.id)


async def test_a_paused_container_can_be_killed(runtime: OciRuntime, make: Make) -> None:
    _, bundle = make("sleep", "60")
    await runtime.create(bundle)
    await runtime.start(bundle.id)
    await runtime.pause(bundle.id)
    await runtime.kill(bundle.id, signal.SIGKILL)
    assert (await runtime.wait(bundle.id)).code == 137


async def test_stdin_is_passed_and_half_closed(runtime: OciRuntime, make: Make) -> None:
    config = ContainerConfig(open_stdin=True, stdin_once=True)
    _, bundle = make("cat", config=config)
    await runtime.create(bundle)
    attachment = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    data = b"0123456789abcde\n" * 20_000
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(collect(attachment))
        for at in range(0, len(data), 50_000):
            await attachment.write(data[at : at + 50_000])
        await attachment.close_stdin()
    assert reading.result()[STDOUT] == data
    assert (await runtime.wait(bundle.id)).code == 0
    with pytest.raises(FailedPrecondition):
        await attachment.write(b"late")


async def test_stdin_stays_open_for_the_next_attacher(runtime: OciRuntime, make: Make) -> None:
    _, bundle = make("cat", config=ContainerConfig(open_stdin=True))
    await runtime.create(bundle)
    first = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    await first.write(b"one\n")
    await until(first, b"one\n")
    await first.close_stdin()
    await first.detach()
    second = await runtime.attach(bundle.id)
    await second.write(b"two\n")
    await until(second, b"two\n")
    await runtime.kill(bundle.id, signal.SIGKILL)
    assert (await runtime.wait(bundle.id)).code == 137


async def test_a_terminal_and_its_size(runtime: OciRuntime, make: Make) -> None:
    config = ContainerConfig(tty=True, open_stdin=True)
    _, bundle = make("sh", config=config)
    await runtime.create(bundle)
    attachment = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    await runtime.resize(bundle.id, 31, 97)
    await attachment.write(b"stty size; exit 3\n")
    said = await collect(attachment)
    assert b"31 97" in said[STDOUT]
    assert said[STDERR] == b""
    assert (await runtime.wait(bundle.id)).code == 3


async def test_a_slow_attacher_is_dropped_and_stops_nothing(
    runtime: OciRuntime, make: Make
) -> None:
    _, bundle = make("sh", "-c", "seq 1 1500000; exit 5")
    await runtime.create(bundle)
    slow = await runtime.attach(bundle.id)
    fast = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    said = await collect(fast)
    assert (await runtime.wait(bundle.id)).code == 5
    assert slow.dropped
    assert not fast.dropped
    assert said[STDOUT].endswith(b"\n1500000\n")


async def test_exec(runtime: OciRuntime, make: Make) -> None:
    request, bundle = make("sleep", "60")
    await runtime.create(bundle)
    await runtime.start(bundle.id)
    spec = exec_spec(request, "sh", "-c", "echo hi; echo no >&2; exit 9")
    running = await runtime.exec(bundle.id, spec)
    said = await collect(running.attachment)
    assert (said[STDOUT], said[STDERR]) == (b"hi\n", b"no\n")
    assert (await running.wait()).code == 9
    for words, code in ((("nosuch",), 127), (("/etc/passwd",), 126)):
        with pytest.raises(RuntimeFailure) as failure:
            await runtime.exec(bundle.id, exec_spec(request, *words))
        assert failure.value.exit_code == code
        assert str(failure.value).startswith("OCI runtime exec failed: exec failed: unable to")
    assert not list((bundle.directory / "exec").iterdir())


async def test_exec_with_stdin_and_terminal(runtime: OciRuntime, make: Make) -> None:
    request, bundle = make("sleep", "60")
    await runtime.create(bundle)
    await runtime.start(bundle.id)
    piped = await runtime.exec(bundle.id, exec_spec(request, "cat", stdin=True))
    await piped.attachment.write(b"through")
    await piped.attachment.close_stdin()
    assert (await collect(piped.attachment))[STDOUT] == b"through"
    assert (await piped.wait()).code == 0
    spec = exec_spec(request, "sh", stdin=True, terminal=True)
    shell = await runtime.exec(bundle.id, spec)
    await shell.resize(20, 70)
    await shell.attachment.write(b"stty size; exit 4\n")
    assert b"20 70" in (await collect(shell.attachment))[STDOUT]
    assert (await shell.wait()).code == 4


async def test_an_exec_ends_with_its_container(runtime: OciRuntime, make: Make) -> None:
    request, bundle = make("sleep", "60")
    await runtime.create(bundle)
    await runtime.start(bundle.id)
    running = await runtime.exec(bundle.id, exec_spec(request, "sleep", "60"))
    await runtime.delete(bundle.id)
    assert (await running.wait()).code == 137


async def test_probes(runtime: OciRuntime, make: Make) -> None:
    request, bundle = make("sleep", "60")
    await runtime.create(bundle)
    await runtime.start(bundle.id)

    async def probe(timeout: float, *words: str) -> tuple[int, bytes]:
        process = exec_process(request, ExecRequest(args=words))
        return await runtime.probe(bundle.id, process, timeout)

    assert await probe(5, "sh", "-c", "echo fine; exit 1") == (1, b"fine\n")
    code, said = await probe(5, "seq", "1", "5000")
    assert (code, len(said)) == (0, 4096)
    assert (await probe(5, "nosuch"))[0] == 127
    before = await runtime.pids(bundle.id)
    assert await probe(0.3, "sh", "-c", "echo slow; exec sleep 60") == (-1, b"slow\n")
    async with asyncio.timeout(5):
        while await runtime.pids(bundle.id) != before:  # noqa: ASYNC110 - the kernel gives no event
            await asyncio.sleep(0.01)


async def test_memory_limit_kills_and_is_told(runtime: OciRuntime, make: Make) -> None:
    hog = "x=$(yes | head -c 200000000); echo $x"
    _, bundle = make("sh", "-c", hog, host=HostConfig(memory=16 << 20))
    await runtime.create(bundle)
    await runtime.start(bundle.id)
    ended = await runtime.wait(bundle.id)
    assert (ended.code, ended.oom_killed) == (137, True)
    assert not list(Path.cwd().glob("oom"))


async def test_pids_limit_and_stats(runtime: OciRuntime, make: Make) -> None:
    forks = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"
    script = f"sh -c '{forks}'; exec sleep 60"  # the inner shell dies of it
    _, bundle = make("sh", "-c", script, host=HostConfig(pids_limit=5, memory=64 << 20))
    await runtime.create(bundle)
    attachment = await runtime.attach(bundle.id)
    await runtime.start(bundle.id)
    assert b"can't fork" in await until(attachment, b"can't fork")
    stats = await runtime.stats(bundle.id)
    assert stats.pids_limit == 5
    assert 1 < stats.pids <= 5
    await runtime.delete(bundle.id)


async def test_limits_can_be_changed(runtime: OciRuntime, make: Make) -> None:
    _, bundle = make("sleep", "60", host=HostConfig(memory=64 << 20))
    await runtime.create(bundle)
    await runtime.start(bundle.id)
    assert (await runtime.stats(bundle.id)).memory_limit == 64 << 20
    await runtime.update(bundle.id, {"memory": {"limit": 96 << 20, "swap": 192 << 20}})
    stats = await runtime.stats(bundle.id)
    assert (stats.memory_limit, stats.pids) == (96 << 20, 1)
    assert stats.memory_usage > 0
    assert stats.cpu_total > 0


async def test_confinement(runtime: OciRuntime, make: Make) -> None:
    script = (
        "unshare -U true; echo user:$?; mount -t tmpfs x /tmp; echo mount:$?;"
        "touch /x; echo touch:$?; head -n1 /proc/kcore; "
        "while read k v; do case $k in CapEff:|Seccomp:) echo $k$v;; esac; done"
        " </proc/self/status"
    )
    host = HostConfig(readonly_rootfs=True, cap_drop=("ALL",), cap_add=("CHOWN",))
    _, bundle = make("sh", "-c", script, host=host)
    code, out, err = await run(runtime, bundle)
    assert code == 0
    assert "user:1" in out
    assert "unshare" in err
    assert "mount:1" in out or "mount:255" in out
    assert "touch:1" in out
    assert "CapEff:0000000000000001" in out
    assert "Seccomp:2" in out


async def test_cancelling_a_create_leaves_nothing(runtime: OciRuntime, make: Make) -> None:
    _, bundle = make("sleep", "60")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await runtime.create(bundle)
    async with asyncio.timeout(10):
        while runtime.containers():  # noqa: ASYNC110 - the kernel gives no event
            await asyncio.sleep(0.01)


def exec_spec(
    request: ContainerRequest, *words: str, stdin: bool = False, terminal: bool = False
) -> ExecSpec:
    process = exec_process(request, ExecRequest(args=words, terminal=terminal))
    return ExecSpec(id=secrets.token_hex(32), process=process, terminal=terminal, stdin=stdin)
