"""Start conmon and talk with it: its pipes, its `ctl` fifo, the files it leaves.

conmon holds the stdio of one container (or exec), writes its log and keeps its exit code while
no agent runs. It is spawned in its own session and cgroup, does nothing before a byte comes on
the start pipe, and answers over the sync pipe. Called by the driver and by its execs.
"""

import asyncio
import contextlib
import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent.runtime.oci.processes import Process, identify, open_process
from agent.runtime.oci.runc import ENVIRONMENT
from agent.runtime.oci.spawner import Program, Spawner
from agent.runtime.runtime import Bundle, ExecSpec, Exit
from shoal.model.errors import Conflict, Internal

LOG = "log"
EXITS = "exits"
ATTACH = "attach"
OOM = "oom"
PID = "pid"
CONMON_PID = "conmon.pid"
CONFIG = "config.json"
ERRORS = "conmon.err"
PROCESS = "process.json"
STATE = "state.json"
LEFTOVERS = (ATTACH, "ctl", "winsz", OOM, PID, CONMON_PID, STATE, ERRORS)

# Beyond this conmon throws old lines away: only for the time that no agent rotates.
LOG_CEILING = 1 << 30
_SYNC, _START, _ATTACH = 3, 4, 5


def reap(pid: int) -> None:
    """Take the exit of a child that has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


class Message(msgspec.Struct, frozen=True):
    """What conmon says on a pipe: a pid or exit code, or -1 and a reason."""

    data: int
    message: str = ""


class Pipe:
    """The reading end of a pipe on which conmon writes lines of JSON."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._buffer = b""
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._ready.set)

    async def message(self) -> Message | None:
        """The next message; None once conmon has closed it."""
        while b"\n" not in self._buffer:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                self._ready.clear()
                await self._ready.wait()
                continue
            if not data:
                line, self._buffer = self._buffer, b""
                return _message(line)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return _message(line)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Conmon:
    """A conmon that was just started, before and while it makes its process."""

    def __init__(self, spawned: int, start: int, sync: Pipe, attach: Pipe | None) -> None:
        self.spawned = spawned
        self._start = start
        self.sync = sync
        self.attach = attach

    def go(self) -> None:
        """Let it pass its next halt: once to begin, with `--exec-attach` once more."""
        os.write(self._start, b"\0")

    async def reap(self) -> None:
        """Wait for the spawned process, which ends as soon as conmon has gone to the back."""
        fd = os.pidfd_open(self.spawned)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        reap(self.spawned)

    def close(self) -> None:
        """Close the pipes; conmon goes on. Idempotent."""
        self.sync.close()
        if self.attach is not None:
            self.attach.close()
        if self._start >= 0:
            os.close(self._start)
            self._start = -1


async def spawn(
    spawner: Spawner, arguments: list[str], directory: Path, *, attach: bool
) -> Conmon:
    """Start conmon in `directory`, halted before its first step.

    It works in its directory, for it writes a file `oom` to wherever it works.
    """
    sync_in, sync_out = os.pipe2(os.O_CLOEXEC)
    start_in, start_out = os.pipe2(os.O_CLOEXEC)
    attach_in = -1
    ours = [sync_in, start_out]
    pipes = [(sync_out, _SYNC), (start_in, _START)]
    environment = {**ENVIRONMENT, "_OCI_SYNCPIPE": str(_SYNC), "_OCI_STARTPIPE": str(_START)}
    if attach:
        attach_in, attach_out = os.pipe2(os.O_CLOEXEC)
        ours.append(attach_in)
        pipes.append((attach_out, _ATTACH))
        environment["_OCI_ATTACHPIPE"] = str(_ATTACH)
    program = Program(
        words=arguments,
        environment=environment,
        directory=directory,
        errors=str(directory / ERRORS),
        pipes=pipes,
    )
    try:
        spawned = await spawner.spawn(program)
    except BaseException as error:
        for fd in ours:
            os.close(fd)
        if isinstance(error, OSError):
            raise Internal(f"conmon cannot be started: {error.strerror}") from error
        raise
    return Conmon(spawned, start_out, Pipe(sync_in), Pipe(attach_in) if attach else None)


def container_arguments(program: str, runtime: str, root: Path, bundle: Bundle) -> list[str]:
    """Conmon's command line for a container; all paths are below the bundle's directory."""
    directory = bundle.directory
    words = _common(program, runtime, root, bundle.id, bundle.id, directory)
    log = f"k8s-file:{bundle.logs / LOG}" if bundle.log.kept else "none"
    words += ["-n", bundle.id, "-l", log, "--no-sync-log"]
    if bundle.log.max_size:
        words += ["--log-size-max", str(max(LOG_CEILING, 4 * bundle.log.max_size))]
    if bundle.terminal:
        words.append("-t")
    if bundle.stdin:
        words.append("-i")
        if not bundle.stdin_once:
            words.append("--leave-stdin-open")  # with it the end of stdin is never passed on
    return words


def exec_arguments(
    program: str, runtime: str, root: Path, container: str, spec: ExecSpec, directory: Path
) -> list[str]:
    """Conmon's command line for an exec, which has a directory of its own.

    It must: conmon names an exec's exit file after the container.
    """
    words = _common(program, runtime, root, container, spec.id, directory)
    words += [
        "-e",
        "--exec-attach",
        "--exec-process-spec",
        str(directory / PROCESS),
        "-l",
        "none",
    ]
    return [*words, *(["-t"] if spec.terminal else []), *(["-i"] if spec.stdin else [])]


def _common(
    program: str, runtime: str, root: Path, container: str, unit: str, directory: Path
) -> list[str]:
    return [
        *(program, "--api-version", "1", "-c", container, "-u", unit, "-r", runtime),
        *("-b", str(directory), "-p", str(directory / PID), "-P", str(directory / CONMON_PID)),
        *("--exit-dir", str(directory / EXITS), "--full-attach", "--log-level", "error"),
        *("--runtime-arg", "--root", "--runtime-arg", str(root)),
    ]


def prepare(directory: Path) -> None:
    """Make the directory, clean of what an earlier run of the same container left."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in LEFTOVERS:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / EXITS, ignore_errors=True)
    (directory / EXITS).mkdir()


def pid_in(directory: Path) -> int:
    """The pid that conmon wrote down, 0 without one."""
    try:
        return int((directory / CONMON_PID).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def find(directory: Path, unit: str) -> Process | None:
    """The conmon of this directory, if it lives and is that of the container or exec."""
    pid = pid_in(directory)
    identity = identify(pid) if pid else None
    held = open_process(identity) if identity is not None else None
    try:
        if held is not None and unit.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return held
    except OSError:
        pass  # it has just ended
    if held is not None:
        held.close()
    return None


def read_exit(directory: Path, container: str, *, oom_killed: bool) -> Exit | None:
    """The exit that conmon recorded, if it has."""
    file = directory / EXITS / container
    try:
        code = int(file.read_text())
        ended = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except (FileNotFoundError, ValueError):
        return None
    return Exit(code=code, finished_at=ended, oom_killed=oom_killed)


def control(directory: Path, command: str) -> None:
    """Write to conmon's fifo; `Conflict` where no conmon reads it."""
    try:
        fd = os.open(directory / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:
            raise Conflict(f"{directory.name} is not running") from error
        raise Internal(f"{directory.name} cannot be controlled: {error.strerror}") from error
    try:
        os.write(fd, f"{command}\n".encode())
    except BrokenPipeError as error:
        raise Conflict(f"{directory.name} is not running") from error
    finally:
        os.close(fd)


def resize(directory: Path, height: int, width: int) -> None:
    """Tell the terminal its size."""
    control(directory, f"1 {height} {width}")


def _message(line: bytes) -> Message | None:
    return msgspec.json.decode(line, type=Message) if line.strip() else None
