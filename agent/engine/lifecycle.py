"""Containers through their life: start, stop, end, restart, removal, adoption.

One coroutine follows each running container (`_follow`): it waits for the end, takes down, and
by the restart policy starts again. People's wishes set flags and send signals; they never start
or end anything behind its back.
"""

import asyncio
import contextlib
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from agent.engine import restart
from agent.engine.companions import Companions
from agent.engine.container import Container
from agent.engine.events import EventBus
from agent.engine.launching import Launcher
from agent.engine.removal import Removal
from agent.runtime.runtime import Exit, Runtime
from shoal.common.clock import Clock
from shoal.model import signals
from shoal.model.errors import ClusterError, Conflict, NotFound, Unavailable

log = structlog.get_logger(__name__)

STOP_SECONDS = 10
_KILL_SECONDS = 20.0


class Lifecycle:
    """An `async with` object: leaving it ends the following, never a container."""

    def __init__(
        self,
        runtime: Runtime,
        launcher: Launcher,
        companions: Companions,
        removal: Removal,
        events: EventBus,
        clock: Clock,
    ) -> None:
        self._removal = removal
        self._runtime = runtime
        self._launcher = launcher
        self._companions = companions
        self._events = events
        self._clock = clock
        self._group = asyncio.TaskGroup()
        self._following: set[asyncio.Task[None]] = set()

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

    # -- a person's wishes -------------------------------------------------------------------

    async def start(self, container: Container) -> bool:
        """Start; False if it runs already. What cannot start and is `--rm` is removed."""
        try:
            return await self._start(container)
        except ClusterError:
            host = container.record.host_config
            if host.auto_remove and container.state.status in ("created", "exited"):
                await self.remove_ended(container)
            raise

    async def _start(self, container: Container) -> bool:
        async with container.lock:
            _check_there(container)
            if container.state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.state.status == "dead":
                raise Conflict("container is marked for removal and cannot be started")
            if container.state.status in ("running", "restarting"):
                return False
            container.change(stopped_by_hand=False, restart_count=0)
            container.delay = None
            await self._launch(container)
            self._spawn(container)
            return True

    async def stop(
        self, container: Container, seconds: int | None = None, signal: str = ""
    ) -> bool:
        """Stop signal, then after the grace period SIGKILL; False if it does not run."""
        if not self._stop_by_hand(container):
            return False
        config = container.record.config
        number = signals.parse(signal or config.stop_signal)
        if seconds is None:
            seconds = STOP_SECONDS if config.stop_timeout is None else config.stop_timeout
        await self._end(container, number, seconds)
        self.publish(container, "stop")
        return True

    async def restart(
        self, container: Container, seconds: int | None = None, signal: str = ""
    ) -> None:
        """Stop if it runs, then start."""
        await self.stop(container, seconds, signal)
        await self.start(container)
        self.publish(container, "restart")

    async def kill(self, container: Container, signal: str = "") -> None:
        """Send a signal; SIGKILL and the stop signal also end the restarting."""
        number = signals.parse(signal, signals.KILL)
        if not container.state.running:
            raise Conflict(
                f"cannot kill container: {container.record.name}: container {container.id} is"
                " not running"
            )
        if number in (signals.KILL, signals.parse(container.record.config.stop_signal)):
            container.change(stopped_by_hand=True)
        with container.exit_waiter() as ended:
            await self._runtime.kill(container.id, number)
            self.publish(container, "kill", signal=str(number))
            if number == signals.KILL:
                await _bounded(container, ended)

    async def pause(self, container: Container) -> None:
        """Freeze all its processes."""
        _check_running(container)
        await self._runtime.pause(container.id)
        container.change_state(status="paused")
        self.publish(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Let them go on."""
        if container.state.status != "paused":
            raise Conflict(f"Container {container.id} is not paused")
        await self._runtime.resume(container.id)
        container.change_state(status="running")
        self.publish(container, "unpause")

    async def wait(self, container: Container, condition: str = "not-running") -> int:
        """The exit code, once the container does not run, ends next, or is removed."""
        if condition == "removed":
            with container.removal_waiter() as removed:
                return await removed
        if condition != "next-exit" and not (
            container.state.running or container.state.status == "restarting"
        ):
            return container.state.exit_code
        with container.exit_waiter() as ended:
            return await ended

    # -- an end ------------------------------------------------------------------------------

    def _stop_by_hand(self, container: Container) -> bool:
        """Note the wish, and end a wait for the next restart; whether there is one to stop."""
        restarting = container.state.status == "restarting"
        if not container.state.running and not restarting:
            return False
        container.change(stopped_by_hand=True)
        if restarting:
            container.cancel_restart.set()
        return True

    async def _end(self, container: Container, number: int, seconds: int) -> None:
        with container.exit_waiter() as ended:
            while container.state.status == "restarting":
                await container.next_change()
            if not container.state.running:
                return
            with contextlib.suppress(Conflict):  # it ended by itself meanwhile
                await self._runtime.kill(container.id, number)
                self.publish(container, "kill", signal=str(number))
                if container.state.status == "paused":
                    await self._runtime.resume(container.id)
            try:
                async with asyncio.timeout(None if seconds < 0 else seconds):
                    await asyncio.shield(ended)
                    return
            except TimeoutError:
                pass  # the grace period is over
            if number != signals.KILL:
                with contextlib.suppress(Conflict):
                    await self._runtime.kill(container.id, signals.KILL)
                    self.publish(container, "kill", signal=str(signals.KILL))
            await _bounded(container, ended)

    def _spawn(self, container: Container) -> None:
        task = self._group.create_task(self._followed(container), name=f"run {container.id}")
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _followed(self, container: Container) -> None:
        try:
            await self._follow(container)
        except Exception:
            log.exception("following a container failed", container=container.id)

    async def _follow(self, container: Container) -> None:
        while True:
            async with self._companions.beside(container):
                ended = await self._runtime.wait(container.id)
            async with container.lock:
                again = await self._ended(container, ended)
            container.tell_exit(ended.code)
            if again is None:
                break
            if not await self._again(container, again):
                break
        if container.record.host_config.auto_remove:
            await self.remove_ended(container)

    async def _ended(self, container: Container, ended: Exit) -> timedelta | None:
        """Take down and record; returns the delay of a restart."""
        record = container.record
        started = record.state.started_at or ended.finished_at
        ran = ended.finished_at - started
        again = restart.wanted(
            record.host_config.restart_policy,
            exit_code=ended.code,
            restarts=record.restart_count,
            stopped_by_hand=record.stopped_by_hand,
        )
        await self._launcher.take_down(container)
        container.health = None
        container.delay = restart.next_delay(container.delay, ran) if again else None
        container.cancel_restart.clear()
        container.change_state(
            status="restarting" if again else "exited",
            pid=0,
            exit_code=ended.code,
            oom_killed=ended.oom_killed,
            finished_at=ended.finished_at,
            error="the exit code was lost" if ended.lost else "",
        )
        if ended.oom_killed:
            self.publish(container, "oom")
        seconds = str(max(0, int(ran.total_seconds())))
        self.publish(container, "die", exitCode=str(ended.code), execDuration=seconds)
        return container.delay

    async def _again(self, container: Container, delay: timedelta) -> bool:
        """Wait, then start again; False if somebody stopped it or it cannot start.

        What is merely not to be had at the moment (no manager answers for a place on a
        cluster network, a reboot later) is tried again until it is.
        """
        attempt: timedelta | None = None
        while True:
            await _pause(container, attempt or delay)
            async with container.lock:
                if container.removed:
                    return False
                if container.record.stopped_by_hand:
                    container.change_state(status="exited")
                    container.tell_exit(container.state.exit_code)
                    return False
                if attempt is None:
                    container.change(restart_count=container.record.restart_count + 1)
                try:
                    await self._launch(container)
                except Unavailable as error:
                    attempt = restart.next_attempt(attempt)
                    container.change_state(status="restarting", error=str(error))
                    log.warning("restart waits", container=container.id, reason=str(error))
                except ClusterError as error:
                    log.warning("restart failed", container=container.id, reason=str(error))
                    container.tell_exit(container.state.exit_code)
                    return False
                else:
                    return True

    async def _launch(self, container: Container) -> None:
        await self._launcher.launch(container)
        self._companions.expect(container)
        self.publish(container, "start")

    # -- removal -----------------------------------------------------------------------------

    async def remove_ended(self, container: Container) -> None:
        """What `--rm` asks for; a failure is logged, for nobody waits for it."""
        try:
            await self.remove(container, volumes=True)
        except ClusterError as error:
            log.warning("automatic removal failed", container=container.id, reason=str(error))

    async def remove(
        self, container: Container, *, force: bool = False, volumes: bool = False
    ) -> None:
        """Remove the container, with its anonymous volumes if wished.

        Raises:
            Conflict: it runs, and is not to be removed by force.
        """
        if container.state.status == "removing":
            raise Conflict(f"removal of container {container.id} is already in progress")
        if container.state.running or container.state.status == "restarting":
            if not force:
                state = container.state.status
                raise Conflict(
                    f'cannot remove container "/{container.record.name}": container is {state}:'
                    " stop the container before removing or force remove"
                )
            if self._stop_by_hand(container):
                await self._end(container, signals.KILL, 0)
        # A task of its own: half removed, with its caller gone, it could be removed no more.
        removing = self._group.create_task(
            self._removed(container, volumes=volumes), name=f"remove {container.id}"
        )
        failure = await asyncio.shield(removing)
        if failure is not None:
            raise failure

    async def _removed(self, container: Container, *, volumes: bool) -> Exception | None:
        """A removal's end as a value: its failure is its caller's, not the group's."""
        try:
            async with container.lock:
                await self._erase(container, volumes=volumes)
        except Exception as failure:  # noqa: BLE001 - raised again by the one who waits
            return failure
        self.publish(container, "destroy")
        container.tell_removed()
        return None

    async def _erase(self, container: Container, *, volumes: bool) -> None:
        _check_there(container)
        if container.state.running:
            raise Conflict(f"container {container.id} was started meanwhile")
        container.change_state(status="removing")
        try:
            await self._launcher.take_down(container)
            await self._removal.erase(container, volumes=volumes)
        except Exception:
            container.change_state(status="dead")
            raise

    # -- after a restart of the agent --------------------------------------------------------

    async def adopt(self, container: Container) -> None:
        """Take a container of an earlier agent back."""
        async with container.lock:
            before = container.state
            running, ended = await self._launcher.adopt(container)
            if running:
                self._companions.expect(container)
                if not before.running:  # the earlier agent died before it could write it down
                    container.change_state(started_at=self._clock.now())
                self._spawn(container)
                return
            delay = None
            if before.running or ended is not None:
                lost = Exit(code=255, finished_at=self._clock.now(), lost=True)
                delay = await self._ended(container, ended or lost)
            else:
                await self._launcher.take_down(container)
                if before.status in ("restarting", "removing"):
                    container.change_state(status="exited")
            if delay is None and self._boots(container):
                delay = timedelta(0)
                container.change_state(status="restarting")
        if delay is not None:
            self._spawn_again(container, delay)
        elif container.record.host_config.auto_remove and before.started_at is not None:
            await self.remove_ended(container)

    def _boots(self, container: Container) -> bool:
        record = container.record
        return restart.wanted_at_boot(
            record.host_config.restart_policy,
            stopped_by_hand=record.stopped_by_hand,
            ran_before=record.state.started_at is not None,
        )

    def _spawn_again(self, container: Container, delay: timedelta) -> None:
        async def again() -> None:
            if await self._again(container, delay):
                await self._followed(container)

        task = self._group.create_task(again(), name=f"restart {container.id}")
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    def publish(self, container: Container, action: str, **attributes: str) -> None:
        """Tell an event of the container: name, image and labels go with it."""
        config = container.record.config
        self._events.publish(
            "container",
            action,
            container.id,
            {**config.labels, "image": config.image, "name": container.record.name}
            | attributes,
        )


def _check_there(container: Container) -> None:
    if container.removed or container.state.status == "removing":
        raise NotFound(f"No such container: {container.id}")


def _check_running(container: Container) -> None:
    if container.state.status == "paused":
        raise Conflict(f"Container {container.id} is already paused")
    if container.state.status != "running":
        raise Conflict(f"Container {container.id} is not running")


async def _pause(container: Container, delay: timedelta) -> None:
    """Until the delay is over, or somebody stops the container."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay.total_seconds()):
            await container.cancel_restart.wait()


async def _bounded(container: Container, ended: "asyncio.Future[int]") -> None:
    try:
        async with asyncio.timeout(_KILL_SECONDS):
            await asyncio.shield(ended)
    except TimeoutError as error:
        raise Conflict(
            f"container {container.id} did not end within {_KILL_SECONDS:.0f} s of SIGKILL"
        ) from error
