"""Processes run in a running container: `docker exec` under conmon, health probes without it.

Under conmon an exec outlives the agent and keeps its exit code; a probe may be lost, so it
spares the conmon. Called by the driver.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from agent.runtime.oci import conmon
from agent.runtime.oci.attach import Console, ConsoleAttachment
from agent.runtime.oci.processes import Process, identify, open_process
from agent.runtime.oci.runc import ENVIRONMENT, Runc, exec_failure, exit_code
from agent.runtime.runtime import Exit
from shoal.common.clock import Clock

PROBE_OUTPUT = 4096
_LOST = 255


class ConmonExec:
    """An exec under conmon; see `agent.runtime.runtime.ExecProcess`."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.pid = pid
        self._directory = directory
        self._ended = asyncio.Event()
        self._exit: Exit | None = None

    async def resize(self, height: int, width: int) -> None:
        conmon.resize(self._directory, height, width)

    async def wait(self) -> Exit:
        await self._ended.wait()
        assert self._exit is not None  # noqa: S101 - set together with the event
        return self._exit

    def finish(self, code: int | None, now: datetime) -> None:
        """Wake who waits; None stands for a code that nobody knows."""
        self._exit = Exit(
            code=_LOST if code is None else code, finished_at=now, lost=code is None
        )
        self._ended.set()
        shutil.rmtree(self._directory, ignore_errors=True)


class AdoptedExec(ConmonExec):
    """One of an earlier agent: its code comes from conmon's exit file."""

    def __init__(
        self, pid: int, directory: Path, container: str, watcher: Process | None
    ) -> None:
        super().__init__(pid, directory)
        self._container = container
        self._watcher = watcher

    async def watch(self, clock: Clock) -> None:
        """Wait for conmon's end and keep the code; the driver runs this."""
        if self._watcher is not None:
            await self._watcher.wait()
        left = conmon.read_exit(self._directory, self._container, oom_killed=False)
        self.finish(None if left is None else left.code, clock.now())


class AttachedExec(ConmonExec):
    """One that this agent started."""

    def __init__(self, pid: int, directory: Path, attachment: ConsoleAttachment) -> None:
        super().__init__(pid, directory)
        self.attachment = attachment

    async def watch(self, started: conmon.Conmon, clock: Clock) -> None:
        """Wait for the exit code and keep it; the driver runs this beside the exec."""
        try:
            said = await started.sync.message()
        finally:
            started.close()
        self.finish(None if said is None else said.data, clock.now())


def adopt(directory: Path, container: str, identity: str) -> AdoptedExec | None:
    """An exec that an earlier agent started in this directory."""
    try:
        pid = int((directory / conmon.PID).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return AdoptedExec(pid, directory, container, conmon.find(directory, identity))


async def begin(started: conmon.Conmon, directory: Path, *, stdin: bool) -> AttachedExec:
    """Lead a halted `conmon -e` to the running process; all of its output is attached.

    Order: first byte, "socket is there" on the attach pipe, connect, second byte, pid.
    """
    console = Console(directory, stdin=stdin, half_close=True)
    try:
        started.go()
        await _attachable(started)
        attachment = console.attach()
        started.go()
        said = await started.sync.message()
        await started.reap()
    except BaseException:
        console.close()
        started.close()
        raise
    if said is None or said.data < 0:
        console.close()
        started.close()
        raise exec_failure(said.message if said else "conmon ended without a word")
    return AttachedExec(said.data, directory, attachment)


async def _attachable(started: conmon.Conmon) -> None:
    assert started.attach is not None  # noqa: S101 - execs are spawned with that pipe
    said = await started.attach.message()
    if said is None or said.data != 0:
        raise exec_failure(said.message if said else "conmon opened no socket")


async def probe(
    runc: Runc, container: str, process: Mapping[str, Any], timeout: float, directory: Path
) -> tuple[int, bytes]:
    """Run `process` by `runc exec`; see `Runtime.probe`. `directory` is removed at the end."""
    pid_file = directory / conmon.PID
    try:
        _write_probe(directory, process)
        child = await asyncio.create_subprocess_exec(
            *(runc.program, "--root", str(runc.root), "exec", "--pid-file", str(pid_file)),
            *("--process", str(directory / conmon.PROCESS), container),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        output = bytearray()
        try:
            async with asyncio.timeout(timeout):
                await _collect(child, output)
                code = await child.wait()
        except TimeoutError:
            _kill(child, pid_file)
            return -1, bytes(output)
        except BaseException:
            _kill(child, pid_file)
            raise
        return _probe_code(code, bytes(output), pid_file), bytes(output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_probe(directory: Path, process: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, mode=0o700)
    (directory / conmon.PROCESS).write_bytes(msgspec.json.encode(process))


async def _collect(child: asyncio.subprocess.Process, output: bytearray) -> None:
    if child.stdout is None:
        return
    while data := await child.stdout.read(65536):
        output += data[: PROBE_OUTPUT - len(output)]


def _probe_code(code: int, output: bytes, pid_file: Path) -> int:
    """Tell runc's own failures (255, and no process was made) by their text."""
    text = output.decode(errors="replace")
    if code == _LOST and not pid_file.exists() and "exec failed" in text:
        return exit_code(text)
    return code


def _kill(child: asyncio.subprocess.Process, pid_file: Path) -> None:
    """End the process inside, then runc: killing runc alone leaves it running."""
    try:
        inside = identify(int(pid_file.read_text()))
    except (FileNotFoundError, ValueError):
        inside = None
    if inside is not None and (held := open_process(inside)) is not None:
        held.send(signal.SIGKILL)
        held.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
