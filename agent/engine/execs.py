"""Further processes in running containers: `docker exec`. Kept until their container goes.

What was started and has not ended is on record beside the container's bundle, so that the next
agent knows it again. Its client's connection ends with the agent; the process does not.
"""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from agent.engine.container import Container
from agent.engine.events import EventBus
from agent.engine.preparing import Preparer
from agent.runtime.controller import RuntimeFailure
from agent.runtime.oci.process import ExecRequest
from agent.runtime.runtime import Attachment, ExecProcess, ExecSpec, Runtime
from shoal.common.entropy import new_hex_id
from shoal.model.errors import ClusterError, Conflict, Internal, InvalidArgument, NotFound

_RECORDS = "execs"
_KEPT = 64  # ended execs of one container that are still shown


class ExecCreate(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of `POST /containers/x/exec`."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    tty: bool = False
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    console_size: tuple[int, int] | None = None


class Exec:
    """One exec; `exit_code` is None until it has ended."""

    def __init__(self, identity: str, container: Container, asked: ExecCreate) -> None:
        self.id = identity
        self.container = container
        self.asked = asked
        self.process: ExecProcess | None = None
        self.started = False
        self.exit_code: int | None = None
        self.pid = 0

    def to_wire(self) -> dict[str, object]:
        """Docker's JSON."""
        asked = self.asked
        return {
            "ID": self.id,
            "Running": self.process is not None and self.exit_code is None,
            "ExitCode": self.exit_code,
            "ProcessConfig": {
                "tty": asked.tty,
                "entrypoint": asked.cmd[0],
                "arguments": list(asked.cmd[1:]),
                "privileged": asked.privileged,
                **({"user": asked.user} if asked.user else {}),
            },
            "OpenStdin": asked.attach_stdin,
            "OpenStderr": asked.attach_stderr,
            "OpenStdout": asked.attach_stdout,
            "CanRemove": self.exit_code is not None,
            "ContainerID": self.container.id,
            "DetachKeys": asked.detach_keys,
            "Pid": self.pid,
        }


class Execs:
    """All execs of this host's containers; an `async with` object."""

    def __init__(
        self,
        runtime: Runtime,
        preparer: Preparer,
        events: EventBus,
    ) -> None:
        self._runtime = runtime
        self._preparer = preparer
        self._events = events
        self._group = asyncio.TaskGroup()
        self._following: set[asyncio.Task[None]] = set()
        self._execs: dict[str, Exec] = {}

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._following:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def create(self, container: Container, asked: ExecCreate) -> str:
        """Register an exec in a running container; returns its id."""
        if container.state.status == "paused":
            raise Conflict(
                f"container {container.id} is paused, unpause the container before exec"
            )
        if container.state.status != "running":
            raise Conflict(f"container {container.id} is not running")
        if not asked.cmd:
            raise InvalidArgument("No exec command specified", field="Cmd")
        self._forget_old(container)
        identity = new_hex_id()
        self._execs[identity] = Exec(identity, container, asked)
        container.execs.add(identity)
        self._publish(self._execs[identity], "exec_create: " + " ".join(asked.cmd))
        return identity

    def get(self, identity: str) -> Exec:
        """An exec by id."""
        found = self._execs.get(identity)
        if found is None or found.container.removed:
            raise NotFound(f"No such exec instance: {identity}")
        return found

    async def start(self, one: Exec, size: tuple[int, int] | None = None) -> Attachment:
        """Run it; returns the live connection to its stdio.

        Raises:
            ClusterError: it cannot run; `exit_code` is 126 or 127 then, as under Docker.
        """
        self.check_startable(one)
        one.started = True
        asked = one.asked
        request = ExecRequest(
            args=asked.cmd,
            env=asked.env,
            working_dir=asked.working_dir,
            terminal=asked.tty,
            privileged=asked.privileged,
            terminal_size=size or asked.console_size or (0, 0),
        )
        try:
            document = await self._preparer.exec_process(one.container, request, asked.user)
            spec = ExecSpec(
                id=one.id, process=document, terminal=asked.tty, stdin=asked.attach_stdin
            )
            process = await self._runtime.exec(one.container.id, spec)
        except ClusterError as error:
            code = error.exit_code if isinstance(error, RuntimeFailure) else None
            one.exit_code = code or 126
            if isinstance(error, RuntimeFailure):
                raise InvalidArgument(str(error)) from error
            raise
        record = _record(one)
        record.parent.mkdir(mode=0o700, exist_ok=True)
        record.write_bytes(msgspec.json.encode(asked))
        self._began(one, process)
        self._publish(one, "exec_start: " + " ".join(asked.cmd))
        return process.attachment

    def _began(self, one: Exec, process: ExecProcess) -> None:
        one.process, one.pid = process, process.pid
        task = self._group.create_task(self._follow(one, process), name=f"exec {one.id}")
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def adopt(self, container: Container) -> None:
        """Know again what an earlier agent started in a container that runs."""
        for record in sorted((container.bundle / _RECORDS).glob("*")):
            try:
                asked = msgspec.json.decode(record.read_bytes(), type=ExecCreate)
            except msgspec.DecodeError:
                continue  # half written: it never was started for anybody
            process = await self._runtime.adopt_exec(container.id, record.name)
            if process is None:
                record.unlink()
                continue
            one = self._execs[record.name] = Exec(record.name, container, asked)
            one.started = True
            container.execs.add(one.id)
            self._began(one, process)

    def check_startable(self, one: Exec) -> None:
        """Refuse a second start, and one in a container that does not run."""
        if one.started:
            raise Conflict(f"Error: Exec command {one.id} is already running")
        if one.container.state.status != "running":
            raise Conflict(f"container {one.container.id} is not running")

    async def wait(self, one: Exec) -> int:
        """The exit code, once it has ended."""
        if one.exit_code is None and one.process is not None:
            one.exit_code = (await one.process.wait()).code
        if one.exit_code is None:
            raise Internal(f"exec {one.id} was never started")
        return one.exit_code

    async def resize(self, one: Exec, height: int, width: int) -> None:
        """Change the size of its terminal."""
        if one.process is None or one.exit_code is not None:
            raise Conflict(f"exec {one.id} is not running")
        await one.process.resize(height, width)

    async def _follow(self, one: Exec, process: ExecProcess) -> None:
        one.exit_code = (await process.wait()).code
        _record(one).unlink(missing_ok=True)
        self._publish(one, "exec_die", exitCode=str(one.exit_code))

    def _forget_old(self, container: Container) -> None:
        ended = [
            identity
            for identity in container.execs
            if (one := self._execs.get(identity)) is None or one.exit_code is not None
        ]
        for identity in ended[: max(0, len(container.execs) - _KEPT)]:
            container.execs.discard(identity)
            self._execs.pop(identity, None)
        gone = [key for key, one in self._execs.items() if one.container.removed]
        for key in gone:
            del self._execs[key]

    def _publish(self, one: Exec, action: str, **attributes: str) -> None:
        record = one.container.record
        about = {"image": record.config.image, "name": record.name, "execID": one.id}
        self._events.publish(
            "container",
            action,
            one.container.id,
            {**record.config.labels, **about, **attributes},
        )


def _record(one: Exec) -> Path:
    return one.container.bundle / _RECORDS / one.id
