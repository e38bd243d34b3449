"""The steps of a start and of an end: root, network, runtime; all of a start or nothing.

No rules about when: `lifecycle` decides that and holds the container's lock around each call.
"""

import asyncio
import errno
import re

import structlog

from agent.engine import ports
from agent.engine.container import Container
from agent.engine.places import Places
from agent.engine.preparing import Preparer
from agent.engine.seams import Wiring
from agent.network.desired import Attachment, Endpoint
from agent.runtime.controller import RuntimeFailure
from agent.runtime.runtime import Exit, Runtime
from shoal.model.errors import ClusterError, Conflict, Internal, InvalidArgument

log = structlog.get_logger(__name__)

_NOT_FOUND = re.compile("executable file not found|no such file or directory")
_NOT_ALLOWED = re.compile("permission denied|is a directory")
_UNWIRED = ("host", "container")
_LAUNCHES = 6  # at a time, some more than the runtime makes: it shall never wait for one


class Launcher:
    """Brings containers up and takes them down."""

    def __init__(
        self, runtime: Runtime, wiring: Wiring, preparer: Preparer, places: Places
    ) -> None:
        self._runtime = runtime
        self._wiring = wiring
        self._preparer = preparer
        self._places = places
        # Of many starts the first are to be with the runtime while the others are prepared.
        self._gate = asyncio.Semaphore(_LAUNCHES)

    async def launch(self, container: Container) -> None:
        """Have the container running; what was half made is taken down again.

        Raises:
            ClusterError: it cannot run; the record holds exit code and sentence.
        """
        try:
            await self._launch(container)
        except asyncio.CancelledError:
            # The agent is going: what is left is found and swept at its next start.
            raise
        except Exception as error:
            failure = _translated(error)
            container.fail_attachers(failure)
            await self.take_down(container)
            code = error.exit_code if isinstance(error, RuntimeFailure) else None
            container.change_state(
                status="exited" if container.state.started_at else "created",
                pid=0,
                exit_code=code or _code(str(failure)),
                error=str(failure),
            )
            raise failure from error

    async def take_down(self, container: Container) -> None:
        """Give back what a run of the container used; the container itself stays."""
        await self._runtime.delete(container.id)
        if container.record.network not in _UNWIRED:
            await self._wiring.detach(container.id)
        await self._preparer.unmount(container)
        endpoint = container.record.endpoint
        container.change(endpoint=None)
        await self._places.release(container, was=endpoint)

    async def _launch(self, container: Container) -> None:
        if container.record.populate:  # may take long: not in others' way
            await self._preparer.mount(container)
        async with self._gate:
            await self._up(container)

    async def _up(self, container: Container) -> None:
        await self._preparer.mount(container)
        endpoint = await self._attach(container)
        bundle = await self._preparer.bundle(container, endpoint)
        pid = await self._runtime.create(bundle)
        if endpoint is not None:
            await self._wiring.release_netns(container.id)
        for future in container.early_attachers():
            future.set_result(await self._runtime.attach(container.id))
        started = await self._runtime.start(container.id)
        container.change_state(
            status="running",
            pid=pid,
            exit_code=0,
            error="",
            oom_killed=False,
            started_at=started,
        )

    async def _attach(self, container: Container) -> Endpoint | None:
        record = container.record
        network = record.network
        if network == "host" or network == "container":
            return None
        if record.endpoint is not None:
            await self._wiring.detach(container.id)
        wanted = ports.wanted(record.config, record.host_config)
        # On disk before the start: what runs without an endpoint on record would be cut off
        # by the next agent, what is wired and does not run is swept by it.
        attachments = record.attachments
        if network in ("bridge", "joined"):
            attachments = await self._places.attachments(container)
        elif not attachments and network != "none":
            attachments = (Attachment(network=network),)
        servers = record.host_config.dns
        endpoint = await self._wiring.attach(container.id, attachments, wanted, servers)
        container.change(endpoint=endpoint)
        if network in ("bridge", "joined"):
            await self._places.started(container)
        return endpoint

    async def adopt(self, container: Container) -> tuple[bool, Exit | None]:
        """What an earlier agent left of it: whether it runs, and how it ended if it did not."""
        found = await self._runtime.adopt(self._preparer.adoption(container))
        if found is None:
            return False, None
        if found.running:
            container.change_state(
                status="paused" if found.paused else "running",
                pid=found.pid,
            )
            if container.record.endpoint is not None:
                await self._wiring.reopen(container.id, f"/proc/{found.pid}/ns/net")
            return True, None
        return False, found.exit


def _translated(error: Exception) -> ClusterError:
    """The failure in the class that the API answers with."""
    if isinstance(error, RuntimeFailure):
        sentence = str(error)
        if _code(sentence) in (126, 127) or error.exit_code in (126, 127):
            return InvalidArgument(sentence)
        return Internal(sentence)
    if isinstance(error, ClusterError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Conflict(f"no space left on this host: {error}")
    log.error("start failed", exc_info=error)
    return Internal(f"the container could not be started: {error}")


def _code(sentence: str) -> int:
    if _NOT_FOUND.search(sentence):
        return 127
    return 126 if _NOT_ALLOWED.search(sentence) else 128
