"""`/services/{id}/logs` and `/tasks/{id}/logs`: the logs of many containers in one stream.

Each task's lines are read from its node's agent and passed on as they come, so those of one
task are in order and those of several are not (as with Swarm). Where a node cannot be reached
the rest is told, and at the end what is missing and why. While following, tasks that appear are
taken in and a broken connection is opened again where it broke.
"""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec
import structlog
from aiohttp import web

from manager.api.agents import read_body, read_head, request_head
from manager.api.backend import Backend
from manager.api.log_lines import Splitter, rendered, split_stamp
from manager.control.lookup import find_service, find_task
from shoal.common.engine_http import frames
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.changes import Event
from shoal.model.errors import ClusterError, InvalidArgument, NotFound
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.numbers import whole
from shoal.model.objects import Service, Task
from shoal.model.states import TaskState

_log = structlog.get_logger(__name__)

BACKLOG = 256
REOPEN_SECONDS = 1.0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the client wants to read."""

    follow: bool
    stdout: bool
    stderr: bool
    since: str
    tail: str
    timestamps: bool
    details: bool
    terminal: bool


class LogHandlers:
    """The handlers of logs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/services/{id}/logs", self.service, stream=True)
        router.add("GET", "/tasks/{id}/logs", self.task, stream=True)

    async def service(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        service = find_service(view, call.parts["id"])
        container = service.spec.task_template.container_spec
        wish = _wish(call, terminal=container is not None and container.tty)
        tasks = view.tasks_of_service(service.id)
        return await self._stream(call, wish, tasks, service.id)

    async def task(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        task = find_task(view, call.parts["id"])
        container = task.spec.container_spec
        wish = _wish(call, terminal=container is not None and container.tty)
        return await self._stream(call, wish, (task,), None)

    async def _stream(
        self, call: Call, wish: Wish, tasks: Sequence[Task], service: ServiceID | None
    ) -> web.StreamResponse:
        kind = frames.content_type(call.version, terminal=wish.terminal)
        stream = await call.stream(kind)
        gathering = Gathering(self._backend, wish)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(gathering.run(tasks, service))
            try:
                while (data := await gathering.lines.get()) is not None:
                    await stream.write(data)
            except ConnectionError:
                _log.debug("the reader of a log has left")
            reading.cancel()
        return stream.response


def _wish(call: Call, *, terminal: bool) -> Wish:
    wish = Wish(
        follow=call.flag("follow"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        since=call.text("since"),
        tail=call.text("tail") or "all",
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
        terminal=terminal,
    )
    if not (wish.stdout or wish.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    if wish.tail != "all" and whole(wish.tail) is None:
        wish = msgspec.structs.replace(wish, tail="all")  # as Docker takes it
    return wish


class Gathering:
    """Reads many tasks' logs into one bounded queue; None in it is the end."""

    def __init__(self, backend: Backend, wish: Wish) -> None:
        self._backend = backend
        self._memory = backend.operations.memory
        self._wish = wish
        self._begun: set[TaskID] = set()
        self._missing: dict[str, None] = {}
        self._changed = asyncio.Event()
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG)

    async def run(self, tasks: Sequence[Task], service: ServiceID | None) -> None:
        """Read these tasks and, following a service, those that appear until it is gone."""
        stop_listening = self._memory.listen(lambda events: self._on_events(events, service))
        try:
            async with asyncio.TaskGroup() as group:
                self._begin(group, tasks)
                while self._wish.follow and self._waits(tasks, service):
                    await self._changed.wait()
                    self._changed.clear()
                    tasks = self._now(tasks, service)
                    self._begin(group, tasks)
        finally:
            stop_listening()
        if self._missing:
            await self.lines.put(self._incomplete())
        await self.lines.put(None)

    def _on_events(self, events: Sequence[Event], service: ServiceID | None) -> None:
        for event in events:
            thing = event.object
            ours = isinstance(thing, Service) and thing.id == service
            if ours or (isinstance(thing, Task) and service in (None, thing.service_id)):
                self._changed.set()

    def _now(self, tasks: Sequence[Task], service: ServiceID | None) -> Sequence[Task]:
        if service is not None:
            return self._memory.tasks_of_service(service)
        present = (self._memory.task(task.id) for task in tasks)
        return [task for task in present if task is not None]

    def _waits(self, tasks: Sequence[Task], service: ServiceID | None) -> bool:
        """Whether a task may still appear, or one of these get its container."""
        if service is not None:
            return self._memory.service(service) is not None
        return any(task.id not in self._begun and not task.ended for task in tasks)

    def _begin(self, group: asyncio.TaskGroup, tasks: Sequence[Task]) -> None:
        for task in tasks:
            container = task.status.container
            if task.id in self._begun or task.node_id is None or container is None:
                continue
            if not container.container_id or task.status.state is TaskState.ORPHANED:
                continue
            self._begun.add(task.id)
            group.create_task(self._read(task, task.node_id, container.container_id))

    async def _read(self, task: Task, node: NodeID, container: str) -> None:
        """One task's lines, from its node, as long as the wish goes."""
        reading = Reading(self._wish, task, node, container)
        while True:
            try:
                await reading.run(self._backend, self.lines)
            except NotFound as error:
                _log.debug("no logs of a task", task=task.id, reason=str(error))
                return
            except (ClusterError, OSError) as error:
                _log.info("logs of a task broke off", task=task.id, reason=str(error))
                now = self._memory.task(task.id)
                if not self._wish.follow or now is None or now.ended:
                    self._missing[f"node {node} is not available: {error}"] = None
                    return
                await asyncio.sleep(REOPEN_SECONDS)
            else:
                return

    def _incomplete(self) -> bytes:
        reasons = ", ".join(self._missing)
        sentence = (
            "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log"
            " stream. some logs could not be retrieved for the following reasons: "
            f"{reasons}\n"
        ).encode()
        return rendered(frames.SYSTEM_ERROR, (), sentence, terminal=self._wish.terminal)


class Reading:
    """One task's log; remembers how far it has come, so that it can go on after a break."""

    def __init__(self, wish: Wish, task: Task, node: NodeID, container: str) -> None:
        self._wish = wish
        self._node = node
        self._container = container
        self._last = self._resumed = b""
        self._details = frames.details_of(
            {
                "com.docker.swarm.node.id": node,
                "com.docker.swarm.service.id": task.service_id,
                "com.docker.swarm.task.id": task.id,
            }
        )

    async def run(self, backend: Backend, lines: asyncio.Queue[bytes | None]) -> None:
        """Read until the agent ends it; a second run goes on where the first broke off."""
        self._resumed = self._last
        line = await backend.door.open(self._node)
        try:
            line.writer.write(request_head("GET", self._target(), {"Connection": "close"}))
            await line.writer.drain()
            answer = await read_head(line, self._node)
            if answer.status == 404:
                raise NotFound(f"node {self._node} has no container {self._container}")
            if answer.status != 200:
                raise InvalidArgument(f"node {self._node} answers {answer.status}")
            splitter = Splitter(terminal=self._wish.terminal)
            async for data in read_body(line, answer):
                for stream, text in splitter.feed(data):
                    await self._pass_on(stream, text, lines)
            for stream, text in splitter.rest():
                await self._pass_on(stream, text, lines)
        finally:
            line.writer.close()

    def _target(self) -> str:
        wish = self._wish
        query = {
            "stdout": int(wish.stdout),
            "stderr": int(wish.stderr),
            "follow": int(wish.follow),
            "timestamps": 1,
            "tail": "all" if self._last else wish.tail,
        }
        since = self._last.decode("ascii", "replace") or wish.since
        return f"/containers/{self._container}/logs?" + urlencode({**query, "since": since})

    async def _pass_on(
        self, stream: int, line: bytes, lines: asyncio.Queue[bytes | None]
    ) -> None:
        stamp, text = split_stamp(line)
        if self._resumed and stamp <= self._resumed:
            return  # told before the break
        self._last = stamp
        prefixes = (stamp,) * self._wish.timestamps + (self._details,) * self._wish.details
        await lines.put(rendered(stream, prefixes, text, terminal=self._wish.terminal))
