"""The container runtime as the engine sees it: between "what a container is" and "run it".

The engine (`agent.engine`) decides names, defaults, restarts and what a person is shown; a
runtime creates, starts, signals and deletes one container and keeps its exit code and its
output while nobody looks. Drivers: `agent.runtime.oci` (runc under conmon). The contract suite
is `tests/contract/test_runtime.py`.

Lifecycle of an id: `create` -> created; `start` -> running; its end -> stopped; `delete` ->
unknown again. All waiting is by events (pidfds, inotify, sockets), none by polling.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

STDOUT = 1
STDERR = 2


class LogPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether output is kept, and its rotation: bytes of one file (0: never), files."""

    kept: bool = True
    max_size: int = 0
    max_files: int = 1


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A container ready to be created.

    Attributes:
        id: 64 hex digits.
        directory: where the runtime keeps config.json, exit code and sockets; made by `create`
            where it is missing; outlives the agent, and a reboot may empty it (a tmpfs).
        logs: the directory of the log, which is there and survives a reboot.
        spec: the OCI runtime configuration, complete.
        terminal: stdin, stdout and stderr are one terminal.
        stdin: stdin stays open for attachers.
        stdin_once: stdin ends when its first attacher closes it.
    """

    id: str
    directory: Path
    logs: Path
    spec: Mapping[str, Any]
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    log: LogPolicy = LogPolicy()


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container or exec ended. 128 + n stands for signal n; `lost` for nobody knows."""

    code: int
    finished_at: datetime
    oom_killed: bool = False
    lost: bool = False


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What `adopt` found of a container after the agent was away.

    Neither running nor with an exit: created and never started.
    """

    pid: int
    running: bool
    paused: bool = False
    exit: Exit | None = None


class ExecSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process to run in a running container: the OCI `process` object and its stdio."""

    id: str
    process: Mapping[str, Any]
    terminal: bool = False
    stdin: bool = False


class BlockUse(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and operations of one kind (`read`, `write`, ...) on one device."""

    major: int
    minor: int
    op: str
    bytes: int = 0
    operations: int = 0


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A container's use of the host: nanoseconds of CPU, bytes of memory, processes.

    Attributes:
        memory_stat: the kernel's own names and numbers of `memory.stat`.
        memory_limit: 0 without one. `pids_limit` likewise.
    """

    read_at: datetime
    cpu_total: int = 0
    cpu_user: int = 0
    cpu_system: int = 0
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_time: int = 0
    memory_usage: int = 0
    memory_max_usage: int = 0
    memory_limit: int = 0
    memory_failures: int = 0
    memory_stat: Mapping[str, int] = {}
    pids: int = 0
    pids_limit: int = 0
    blocks: tuple[BlockUse, ...] = ()


class Attachment(Protocol):
    """A live connection to the stdio of a container or exec.

    Iterating gives (STDOUT or STDERR, bytes) until the process closes its output. The runtime
    always drains conmon; an attacher that does not read is dropped (iteration ends) after a
    bounded buffer, so that it can never stop the container.
    """

    @property
    def dropped(self) -> bool:
        """It read too slowly and lost output; the log has all of it."""
        ...

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]: ...

    async def write(self, data: bytes) -> None:
        """Send to stdin; raises `FailedPrecondition` once stdin is closed."""
        ...

    async def close_stdin(self) -> None:
        """Half-close: the process sees the end of its stdin; output goes on."""
        ...

    async def detach(self) -> None:
        """Let go; the container is not disturbed, and its stdin stays open. Idempotent."""
        ...


class ExecProcess(Protocol):
    """An exec. It outlives its starter: conmon keeps its exit code."""

    @property
    def pid(self) -> int: ...

    async def resize(self, height: int, width: int) -> None: ...

    async def wait(self) -> Exit: ...


class StartedExec(ExecProcess, Protocol):
    """An exec of this agent's own, whose stdio has one connection from the start."""

    @property
    def attachment(self) -> Attachment: ...


class Runtime(Protocol):
    """Runs containers. Errors are `shoal.model.errors` classes with Docker's sentences.

    `create` and `start` of something that cannot run raise `RuntimeFailure` (see
    `agent.runtime.controller`) with exit code 127 (not found) or 126 (not executable).
    """

    async def create(self, bundle: Bundle) -> int:
        """Create the container, not yet started; returns its init's pid. All or nothing."""
        ...

    async def start(self, container: str) -> datetime:
        """Start the created container; returns the instant."""
        ...

    async def kill(self, container: str, signal: int, *, all_processes: bool = False) -> None:
        """Send a signal; a container that is not running is `Conflict`."""
        ...

    async def wait(self, container: str) -> Exit:
        """Return when the container has ended; at once if it already has. Many may wait."""
        ...

    async def delete(self, container: str) -> None:
        """Forget a container: cgroups, runtime state; its directory stays. Idempotent.

        One that still runs is killed first.
        """
        ...

    async def adopt(self, bundle: Bundle) -> Found | None:
        """Take a container of an earlier agent back; None where nothing of it is left."""
        ...

    async def pause(self, container: str) -> None: ...

    async def resume(self, container: str) -> None: ...

    async def resize(self, container: str, height: int, width: int) -> None: ...

    async def attach(self, container: str) -> Attachment: ...

    async def exec(self, container: str, spec: ExecSpec) -> StartedExec: ...

    async def adopt_exec(self, container: str, identity: str) -> ExecProcess | None:
        """An exec of an earlier agent, ended or not; None where nothing of it is left."""
        ...

    async def probe(
        self, container: str, process: Mapping[str, Any], timeout: float
    ) -> tuple[int, bytes]:
        """Run a short command inside, as health checks do: exit code, first 4096 bytes said.

        Past `timeout` seconds it is killed, and the code is -1.
        """
        ...

    async def stats(self, container: str) -> Stats:
        """What its cgroup has used until now; a container that is not running is `Conflict`."""
        ...

    async def pids(self, container: str) -> tuple[int, ...]:
        """Processes of the container, pids as the host sees them."""
        ...

    async def update(self, container: str, resources: Mapping[str, Any]) -> None:
        """Change the limits of a running container: the OCI `linux.resources` object."""
        ...
