"""The streams of containers: attach, exec, logs."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog
from aiohttp import web

from agent import logs
from agent.api.streaming import Wishes, parse_detach_keys, pump
from agent.engine.container import Container
from agent.engine.engine import Engine
from agent.engine.execs import ExecCreate
from agent.engine.preparing import log_policy
from agent.engine.records import Record
from agent.logs import LogLine, LogQuery
from shoal.common.clock import Clock
from shoal.common.engine_http import frames
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.hijack import Connection
from shoal.common.engine_http.instants import parse_time
from shoal.common.engine_http.router import Router
from shoal.model.errors import ClusterError, Conflict, InvalidArgument, Unimplemented
from shoal.model.log_options import Logged, said_with_lines
from shoal.model.numbers import whole

log = structlog.get_logger(__name__)

_EXIT_SECONDS = 5.0


class ExecStart(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of `POST /exec/x/start`."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


class Interactive:
    """Handlers of attach, exec and logs."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def add_routes(self, router: Router) -> None:
        one = "/containers/{id}"
        router.add("POST", f"{one}/attach", self.attach, stream=True)
        router.add("GET", f"{one}/logs", self.logs, stream=True)
        router.add("POST", f"{one}/exec", self.exec_create)
        router.add("POST", "/exec/{id}/start", self.exec_start, stream=True)
        router.add("POST", "/exec/{id}/resize", self.exec_resize)
        router.add("GET", "/exec/{id}/json", self.exec_inspect)

    async def attach(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        if container.state.status == "paused":
            raise Conflict(
                f"container {container.id} is paused, unpause the container before attach"
            )
        config = container.record.config
        wishes = Wishes(
            terminal=config.tty,
            stdin=call.flag("stdin") and config.open_stdin,
            stdout=call.flag("stdout"),
            stderr=call.flag("stderr"),
            detach=parse_detach_keys(call.text("detachKeys")),
        )
        if call.flag("logs"):
            _check_readable(container)
        connection = call.hijack(terminal=config.tty)
        if call.flag("logs"):
            await self._replay(connection, container, wishes)
        if call.flag("stream"):
            await self._attached(connection, container, wishes)
        return connection.close()

    async def _attached(
        self, connection: Connection, container: Container, wishes: Wishes
    ) -> None:
        try:
            attachment = await self._engine.attach(container)
        except (ClusterError, ConnectionError) as error:
            log.debug("attach ended early", container=container.id, reason=str(error))
            return
        self._engine.lifecycle.publish(container, "attach")
        await pump(connection, attachment, wishes)

    async def _replay(
        self, connection: Connection, container: Container, wishes: Wishes
    ) -> None:
        query = LogQuery(stdout=wishes.stdout, stderr=wishes.stderr)
        over = asyncio.Event()
        over.set()
        async for line in logs.read(container.directory, query, over):
            await connection.write(_encoded(line, line.data, terminal=wishes.terminal))

    async def logs(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        now = self._clock.now()
        query = LogQuery(
            follow=call.flag("follow"),
            tail=_tail(call.text("tail", "all")),
            since=parse_time(call.text("since"), "since", now),
            until=parse_time(call.text("until"), "until", now),
            stdout=call.flag("stdout"),
            stderr=call.flag("stderr"),
        )
        if not (query.stdout or query.stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        _check_readable(container)
        record = container.record
        terminal = record.config.tty
        prefix = b""
        if call.flag("details"):
            prefix = frames.details_of(said_with_lines(*_logged(record))) + b" "
        stream = await call.stream(frames.content_type(call.version, terminal=terminal))
        stamps = call.flag("timestamps")
        async with self._end_of(container) as ended:
            async for line in logs.read(container.directory, query, ended):
                stamp = f"{line.time} ".encode() if stamps else b""
                data = stamp + prefix + line.data
                await stream.write(_encoded(line, data, terminal=terminal))
        return stream.response

    @asynccontextmanager
    async def _end_of(self, container: Container) -> AsyncIterator[asyncio.Event]:
        """An event that is set once the container does not run (any more)."""
        ended = asyncio.Event()

        async def watch() -> None:
            while container.state.running or container.state.status == "created":
                if container.removed:
                    break
                await container.next_change()
            ended.set()

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            try:
                yield ended
            finally:
                watching.cancel()

    async def exec_create(self, call: Call) -> web.StreamResponse:
        container = self._engine.find(call.parts["id"])
        identity = self._engine.execs.create(container, await call.body(ExecCreate))
        return call.json({"Id": identity}, 201)

    async def exec_start(self, call: Call) -> web.StreamResponse:
        one = self._engine.execs.get(call.parts["id"])
        asked = await call.optional_body(ExecStart) or ExecStart()
        self._engine.execs.check_startable(one)
        # Docker frames the stream by what the start says, not the exec: docker-py creates
        # terminals, starts them as none and takes the stream apart.
        if asked.detach:
            attachment = await self._engine.execs.start(one, asked.console_size)
            await attachment.detach()
            return call.empty(200)
        wishes = Wishes(
            terminal=asked.tty,
            stdin=one.asked.attach_stdin,
            stdout=one.asked.attach_stdout,
            stderr=one.asked.attach_stderr,
            detach=parse_detach_keys(one.asked.detach_keys),
        )
        connection = call.hijack(terminal=asked.tty)
        try:
            attachment = await self._engine.execs.start(one, asked.console_size)
        except ClusterError as error:
            sentence = f"{error}\r\n".encode()
            whole = sentence if wishes.terminal else frames.frame(frames.STDOUT, sentence)
            await connection.write(whole)
            return connection.close()
        await pump(connection, attachment, wishes)
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._engine.execs.wait(one)  # the client asks for the code next
        except TimeoutError:
            log.debug("exec closed its output and runs on", exec=one.id)
        return connection.close()

    async def exec_resize(self, call: Call) -> web.StreamResponse:
        one = self._engine.execs.get(call.parts["id"])
        await self._engine.execs.resize(one, call.number("h", 0), call.number("w", 0))
        return call.empty(200)

    async def exec_inspect(self, call: Call) -> web.StreamResponse:
        return call.json(self._engine.execs.get(call.parts["id"]).to_wire())


def _check_readable(container: Container) -> None:
    if not log_policy(container.record.host_config).kept:
        raise Unimplemented("configured logging driver does not support reading")


def _encoded(line: LogLine, data: bytes, *, terminal: bool) -> bytes:
    if terminal:
        return data
    stream = frames.STDERR if line.stream == logs.STDERR else frames.STDOUT
    return frames.frame(stream, data)


def _logged(record: Record) -> tuple[Mapping[str, str], Logged]:
    config = record.config
    return record.host_config.log_config.config, Logged(
        id=record.id,
        name=record.name,
        image_id=record.image_id,
        image=config.image,
        labels=config.labels,
        env=config.env or (),
    )


def _tail(text: str) -> int | None:
    return whole(text)  # None is all, which Docker makes of anything else
