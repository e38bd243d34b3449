"""The runc program: one method a command, its errors as ours.

Starting and deleting have short cuts that spare a process of 5 ms each (exec.fifo; cgroups and
state removed by hand); they lean on runc's private state and fall back to the command. Called
by the driver and its execs only.
"""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.runtime.controller import RuntimeFailure
from shoal.model.errors import Conflict, Internal

NOT_FOUND = 127
NOT_EXECUTABLE = 126
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

_CREATE = "failed to create task for container: failed to create shim task: "
_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_LEVEL = re.compile(r"^(?:time=\S+ )?level=\w+ ")


class Runc:
    """runc with its state in `root`, a directory that a reboot empties."""

    def __init__(self, program: str, root: Path) -> None:
        self.program = shutil.which(program) or program
        self.root = root

    def state(self, container: str) -> Path:
        """The state directory of a container."""
        return self.root / container

    async def start(self, container: str) -> None:
        """Let the created init go on to the container's command."""
        fifo = self.state(container) / "exec.fifo"
        try:
            # Never blocks; runc's init waits at the other end, or is about to.
            fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            await self.command("start", container)
            return
        try:
            await _readable(fd)
            if not os.read(fd, 1):
                raise RuntimeFailure(f"container {container} ended before it could start")
        finally:
            os.close(fd)
        fifo.unlink(missing_ok=True)  # its absence is what makes `runc state` say "running"

    def forget(self, container: str) -> None:
        """Remove the state of an ended container whose cgroups are gone."""
        shutil.rmtree(self.state(container), ignore_errors=True)

    async def delete(self, container: str) -> None:
        await self.command("delete", "--force", container)

    async def pause(self, container: str) -> None:
        await self.command("pause", container)

    async def resume(self, container: str) -> None:
        await self.command("resume", container)

    async def update(self, container: str, resources: Mapping[str, Any]) -> None:
        body = msgspec.json.encode(resources)
        await self.command("update", "--resources", "-", container, stdin=body)

    async def status(self, container: str) -> str:
        """`created`, `running`, `paused` or `stopped`; empty for an unknown id."""
        try:
            text = await self.command("state", container)
        except Conflict:
            return ""
        return str(msgspec.json.decode(text)["status"])

    async def command(self, *words: str, stdin: bytes | None = None) -> bytes:
        """Run `runc words`; a failure is ours with runc's sentence."""
        process = await asyncio.create_subprocess_exec(
            self.program,
            "--root",
            str(self.root),
            *words,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
        )
        try:
            out, err = await process.communicate(stdin)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if process.returncode:
            raise _refusal(words, err.decode(errors="replace"))
        return out


def sentence(message: str) -> str:
    """The innermost text of what conmon and runc say: without times, levels and quotes."""
    text = message.strip()
    while (found := _MESSAGE.search(text)) is not None and "level=" in text:
        text = found.group(1).replace('\\"', '"').replace("\\\\", "\\").strip()
    return _LEVEL.sub("", text).removesuffix("\\n").strip()


def create_failure(message: str) -> RuntimeFailure:
    """Docker's error for a container that could not be created, with its exit code."""
    text = sentence(message)
    return RuntimeFailure(
        f"{_CREATE}OCI runtime create failed: {text}: unknown", exit_code=exit_code(text)
    )


def exec_failure(message: str) -> RuntimeFailure:
    """Docker's error for an exec that could not start, with its exit code."""
    text = sentence(message)
    return RuntimeFailure(
        f"OCI runtime exec failed: {text}: unknown", exit_code=exit_code(text)
    )


def exit_code(text: str) -> int:
    """As `docker run` derives it: 127 not found, 126 not executable, 128 for the rest."""
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    if "permission denied" in text or "is a directory" in text:
        return NOT_EXECUTABLE
    return 128


def _refusal(words: tuple[str, ...], stderr: str) -> Exception:
    text = sentence(stderr.strip().splitlines()[-1] if stderr.strip() else "no reason given")
    if "does not exist" in text or "not running" in text or "not paused" in text:
        return Conflict(f"container {words[-1]}: {text}")
    return Internal(f"runc {words[0]} failed for container {words[-1]}: {text}")


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
