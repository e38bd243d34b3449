"""The default runtime driver: containers by runc under conmon, followed by pidfds.

What must outlive the agent is in the bundle's directory: `state.json` (which processes it is,
of which boot), conmon's exit file, the log. Everything here is only the running agent's
knowledge of it. Making the bundle is the engine's (`agent.runtime.oci.bundle`), mounting the
root file system that of `agent.runtime.oci.rootfs`. Made by the composition root; used through
the seam.
"""

import asyncio
import shutil
import signal
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from agent.runtime.oci import cgroups, conmon, execution
from agent.runtime.oci.attach import Console, ConsoleAttachment
from agent.runtime.oci.processes import (
    Process,
    ProcessID,
    boot_id,
    identify,
    open_process,
)
from agent.runtime.oci.runc import Runc, create_failure
from agent.runtime.oci.spawner import Spawner
from agent.runtime.runtime import Bundle, ExecSpec, Exit, Found, Stats
from shoal.common.clock import Clock
from shoal.common.entropy import new_hex_id
from shoal.model.errors import AlreadyExists, Conflict, NotFound

log = structlog.get_logger()

LOST = 255  # exit code where nobody knows it, as Docker has it
_END = 10.0  # seconds that SIGKILL may take before runc is asked to force it


class OciSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver is told.

    Attributes:
        root: runtime state that a reboot empties (a tmpfs); short-lived files too.
        cgroup_parent: `/shoal/<instance>`; containers usually lie below it, conmon in `conmon`.
        concurrency: creates and execs at a time; more only queue for the processors.
    """

    root: Path
    cgroup_parent: str
    runc: str = "runc"
    conmon: str = "conmon"
    concurrency: int = 4


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`: enough to find the processes of this boot again."""

    boot: str
    init: ProcessID
    conmon: ProcessID


class _Container:
    """One container of this agent's life."""

    def __init__(self, bundle: Bundle) -> None:
        linux = bundle.spec.get("linux", {})
        self.id = bundle.id
        self.directory = bundle.directory
        self.cgroup: str = linux.get("cgroupsPath", "")
        kinds = {space["type"] for space in linux.get("namespaces", ()) if "path" not in space}
        self.own_pids = "pid" in kinds
        self.console = Console(
            bundle.directory, stdin=bundle.stdin, half_close=bundle.stdin and bundle.stdin_once
        )
        self.init: Process | None = None
        self.conmon: Process | None = None
        self.started = False
        self.exit: Exit | None = None
        self.ended = asyncio.Event()

    def close(self) -> None:
        self.console.close()
        for process in (self.init, self.conmon):
            if process is not None:
                process.close()


class OciRuntime:
    """Implements `agent.runtime.runtime.Runtime`; `async with` holds its background work."""

    def __init__(self, settings: OciSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._runc = Runc(settings.runc, settings.root / "runc")
        self._conmon = shutil.which(settings.conmon) or settings.conmon
        self._hierarchies = cgroups.detect()
        self._spawner = Spawner(self._hierarchies, f"{settings.cgroup_parent}/conmon")
        self._containers: dict[str, _Container] = {}
        self._gate = asyncio.Semaphore(settings.concurrency)
        self._group = asyncio.TaskGroup()
        self._watches: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._runc.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching; the containers run on."""
        for task in self._watches:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)
        for container in self._containers.values():
            container.close()
        self._containers.clear()
        self._spawner.close()

    def containers(self) -> tuple[str, ...]:
        """Ids of all that were created or adopted and not deleted."""
        return tuple(self._containers)

    async def create(self, bundle: Bundle) -> int:
        if bundle.id in self._containers:
            raise AlreadyExists(f"container {bundle.id} is already created")
        container = self._containers[bundle.id] = _Container(bundle)
        making = self._group.create_task(self._try(bundle, container), name="create")
        try:
            outcome = await asyncio.shield(making)
        except asyncio.CancelledError:
            self._group.create_task(self._undo(making, bundle.id), name="undo create")
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def start(self, container: str) -> datetime:
        held = self._known(container)
        if held.started or held.init is None or held.init.ended:
            raise Conflict(f"container {container} is not waiting to be started")
        async with asyncio.TaskGroup() as group:
            # Should the init die before it takes the start, nothing would ever come.
            guard = group.create_task(held.init.wait())
            starting = group.create_task(self._runc.start(container))
            await asyncio.wait((guard, starting), return_when=asyncio.FIRST_COMPLETED)
            guard.cancel()
            if not starting.done():
                starting.cancel()
        if starting.cancelled():
            raise Conflict(f"container {container} ended before it was started")
        held.started = True
        return self._clock.now()

    async def kill(self, container: str, signal: int, *, all_processes: bool = False) -> None:
        held = self._running(container)
        if all_processes:
            cgroups.kill_all(self._hierarchies, held.cgroup, signal)
        elif held.init is None or not held.init.send(signal):
            raise Conflict(f"container {container} is not running")
        if signal == _KILL and self._paused(held):
            await self._runc.resume(container)  # a frozen process takes it when it thaws

    async def wait(self, container: str) -> Exit:
        held = self._known(container)
        await held.ended.wait()
        assert held.exit is not None  # noqa: S101 - set together with the event
        return held.exit

    async def delete(self, container: str) -> None:
        held = self._containers.get(container)
        if held is None:
            if self._runc.state(container).exists():
                await self._runc.delete(container)
            return
        await self._end(held)
        gone = await asyncio.to_thread(cgroups.remove, self._hierarchies, held.cgroup)
        if gone:
            self._runc.forget(container)
        elif self._runc.state(container).exists():
            await self._runc.delete(container)
        held.close()
        self._containers.pop(container, None)
        for name in conmon.LEFTOVERS:
            (held.directory / name).unlink(missing_ok=True)
        shutil.rmtree(held.directory / "exec", ignore_errors=True)

    async def adopt(self, bundle: Bundle) -> Found | None:
        if bundle.id in self._containers:
            raise AlreadyExists(f"container {bundle.id} is already known")
        held = _Container(bundle)
        try:
            data = await asyncio.to_thread((bundle.directory / conmon.STATE).read_bytes)
            state = msgspec.json.decode(data, type=_State)
        except (FileNotFoundError, msgspec.DecodeError):
            await self._sweep(held)
            return None
        self._containers[bundle.id] = held
        if state.boot == boot_id():
            held.init = open_process(state.init)
            held.conmon = open_process(state.conmon)
        held.started = not (self._runc.state(bundle.id) / "exec.fifo").exists()
        if held.conmon is None and held.init is None:
            self._settle(held)
        else:
            self._watch(held)
        alive = held.init is not None and not held.init.ended
        return Found(
            pid=state.init.pid if alive else 0,
            running=alive and held.started,
            paused=alive and self._paused(held),
            exit=held.exit if held.exit or alive else await self.wait(bundle.id),
        )

    async def pause(self, container: str) -> None:
        if self._paused(self._running(container)):
            raise Conflict(f"container {container} is already paused")
        await self._runc.pause(container)

    async def resume(self, container: str) -> None:
        if not self._paused(self._running(container)):
            raise Conflict(f"Container {container} is not paused")
        await self._runc.resume(container)

    async def resize(self, container: str, height: int, width: int) -> None:
        conmon.resize(self._known(container).directory, height, width)

    async def attach(self, container: str) -> ConsoleAttachment:
        return self._known(container).console.attach()

    async def exec(self, container: str, spec: ExecSpec) -> execution.AttachedExec:
        held = self._running(container)
        directory = held.directory / "exec" / spec.id
        async with self._gate:
            await asyncio.to_thread(conmon.prepare, directory)
            (directory / conmon.PROCESS).write_bytes(msgspec.json.encode(spec.process))
            words = conmon.exec_arguments(
                self._conmon, self._runc.program, self._runc.root, container, spec, directory
            )
            started = await conmon.spawn(self._spawner, words, directory, attach=True)
            try:
                running = await execution.begin(started, directory, stdin=spec.stdin)
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        self._background(running.watch(started, self._clock), "exec")
        return running

    async def adopt_exec(self, container: str, identity: str) -> execution.AdoptedExec | None:
        directory = self._known(container).directory / "exec" / identity
        found = execution.adopt(directory, container, identity)
        if found is not None:
            self._background(found.watch(self._clock), "exec")
        return found

    async def probe(
        self, container: str, process: Mapping[str, Any], timeout: float
    ) -> tuple[int, bytes]:
        self._running(container)
        directory = self._settings.root / "probes" / new_hex_id()[:16]
        return await execution.probe(self._runc, container, process, timeout, directory)

    async def stats(self, container: str) -> Stats:
        held = self._running(container)
        return await asyncio.to_thread(
            cgroups.read_stats, self._hierarchies, held.cgroup, self._clock
        )

    async def pids(self, container: str) -> tuple[int, ...]:
        held = self._running(container)
        return await asyncio.to_thread(cgroups.processes, self._hierarchies, held.cgroup)

    async def update(self, container: str, resources: Mapping[str, Any]) -> None:
        self._running(container)
        await self._runc.update(container, resources)

    async def _try(self, bundle: Bundle, held: _Container) -> int | Exception:
        """Create; a failure is the caller's and must not end the group of all containers."""
        try:
            return await self._create(bundle, held)
        except Exception as error:  # noqa: BLE001 - raised again by `create`
            return error

    async def _create(self, bundle: Bundle, held: _Container) -> int:
        try:
            async with self._gate:
                await asyncio.to_thread(_write_bundle, bundle)
                words = conmon.container_arguments(
                    self._conmon, self._runc.program, self._runc.root, bundle
                )
                started = await conmon.spawn(
                    self._spawner, words, bundle.directory, attach=False
                )
                pid = await self._made(started)
                held.init, held.conmon = _hold(pid), _hold(conmon.pid_in(bundle.directory))
            _write_state(bundle.directory, held.init, held.conmon)
            self._watch(held)
        except BaseException:
            await self._sweep(held)
            held.close()
            self._containers.pop(bundle.id, None)
            raise
        return pid

    async def _undo(self, making: asyncio.Task[int | Exception], container: str) -> None:
        await making
        await self.delete(container)

    async def _made(self, started: conmon.Conmon) -> int:
        """From the first byte to the pid of the created container's init."""
        try:
            started.go()
            said = await started.sync.message()
            await started.reap()
        finally:
            started.close()
        if said is None or said.data < 0:
            raise create_failure(said.message if said else "conmon ended without a word")
        return said.data

    def _watch(self, held: _Container) -> None:
        self._background(self._follow(held), "container")

    def _background(self, work: Any, name: str) -> None:
        task = self._group.create_task(work, name=name)
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def _follow(self, held: _Container) -> None:
        if held.init is not None:
            await held.init.wait()
        if not held.own_pids:
            # Its processes do not die with it, and would keep the log open.
            await asyncio.to_thread(cgroups.kill_all, self._hierarchies, held.cgroup)
        if held.conmon is not None:
            await held.conmon.wait()
        self._settle(held)

    def _settle(self, held: _Container) -> None:
        oom = cgroups.oom_kills(self._hierarchies, held.cgroup) > 0
        oom = oom or (held.directory / conmon.OOM).exists()
        held.exit = conmon.read_exit(held.directory, held.id, oom_killed=oom)
        if held.exit is None:
            log.warning("exit code of the container is lost", container=held.id)
            held.exit = Exit(
                code=LOST, finished_at=self._clock.now(), oom_killed=oom, lost=True
            )
        held.ended.set()

    async def _end(self, held: _Container) -> None:
        """Have the container dead and settled."""
        if held.ended.is_set():
            return
        if held.init is not None:
            held.init.send(_KILL)
            if self._paused(held):
                await self._runc.resume(held.id)
        try:
            async with asyncio.timeout(_END):
                await held.ended.wait()
        except TimeoutError:
            log.warning("container does not end; forcing it", container=held.id)
            await self._runc.delete(held.id)
            if held.conmon is not None:
                held.conmon.send(_KILL)

    async def _sweep(self, held: _Container) -> None:
        """Remove a container that was never wholly made: conmon, init, state, cgroup."""
        process = conmon.find(held.directory, held.id)
        if self._runc.state(held.id).exists():
            await self._runc.delete(held.id)
        if process is not None:
            process.send(_KILL)
            async with asyncio.timeout(_END):
                await process.wait()
        if held.cgroup:
            await asyncio.to_thread(cgroups.kill_all, self._hierarchies, held.cgroup)
            await asyncio.to_thread(cgroups.remove, self._hierarchies, held.cgroup)

    def _paused(self, held: _Container) -> bool:
        return cgroups.frozen(self._hierarchies, held.cgroup)

    def _known(self, container: str) -> _Container:
        if container not in self._containers:
            raise NotFound(f"No such container: {container}")
        return self._containers[container]

    def _running(self, container: str) -> _Container:
        held = self._known(container)
        if not held.started or held.init is None or held.init.ended:
            raise Conflict(f"container {container} is not running")
        return held


_KILL = int(signal.SIGKILL)


def _write_bundle(bundle: Bundle) -> None:
    conmon.prepare(bundle.directory)
    config = bundle.directory / conmon.CONFIG
    config.write_bytes(msgspec.json.encode(bundle.spec))
    config.chmod(0o600)


def _write_state(directory: Path, init: Process | None, watcher: Process | None) -> None:
    if init is None or watcher is None:
        raise create_failure("the container ended while it was created")
    state = _State(boot=boot_id(), init=init.identity, conmon=watcher.identity)
    temporary = directory / f"{conmon.STATE}.new"
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.rename(directory / conmon.STATE)


def _hold(pid: int) -> Process | None:
    identity = identify(pid)
    return open_process(identity) if identity is not None else None
