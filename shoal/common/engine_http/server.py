"""Serve a `Router` on unix and TCP sockets, with the manners every Engine API reply has.

Errors of ours become Docker's statuses here, and only here; any other exception is logged with
its trace and answered 500 with one sentence.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from typing_extensions import override

from shoal.common.engine_http import versions
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.failures import error_response, respond
from shoal.common.engine_http.router import Route, Router
from shoal.model.errors import ClusterError

Guard = Callable[[Call], None]
"""Raises `PermissionDenied` where this listener must not serve this call."""

_SHUTDOWN_SECONDS = 2.0
_IDLE_SECONDS = 300.0  # between requests, and for the head of the first: Docker's own
_LINE_BYTES = 64 << 10  # registry tokens in headers are long
_BACKLOG = 1024  # a burst of clients is not refused while one request is worked on
log = structlog.get_logger(__name__)


class _Protocol(RequestHandler):
    """Words what is not even HTTP as Docker words errors, and closes the connection."""

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        log.info("not a request", reason=str(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, an error cannot follow it")
        first = (message or "").strip().partition("\n")[0].strip().rstrip(":")
        response = error_response(status, f"malformed HTTP request: {first}")
        response.force_close()
        return response


class _Server(web.Server):
    @override
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class EngineServer:
    """An `async with` object; leaving it closes listeners and open connections, bounded.

    Args:
        router: the API.
        headers: what each reply carries besides the fixed headers (such as `Swarm` on a ping).
    """

    def __init__(self, router: Router, headers: Mapping[str, str] | None = None) -> None:
        self._router = router
        self._headers = {
            "Api-Version": versions.text_of(versions.MAXIMUM),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Docker/{versions.ENGINE} (linux)",
            **(headers or {}),
        }
        self._runners: list[web.ServerRunner] = []
        self._working: set[asyncio.Task[web.StreamResponse | Exception]] = set()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()
        for task in self._working:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    async def serve_unix(
        self, path: Path, *, mode: int = 0o660, group: int = -1, guard: Guard | None = None
    ) -> None:
        """Listen on a unix socket, replacing what a dead predecessor left there."""
        _clear(path)
        mask = os.umask(0o777 & ~mode)
        try:
            runner = await self._runner(guard)
            await web.UnixSite(runner, str(path), backlog=_BACKLOG).start()
        finally:
            os.umask(mask)
        if group >= 0:
            os.chown(path, -1, group)

    @asynccontextmanager
    async def listening(
        self, host: str, port: int, context: ssl.SSLContext, guard: Guard | None = None
    ) -> AsyncIterator[None]:
        """Listen on TCP with TLS for the block; the context decides who may connect."""
        runner = await self._runner(guard)
        try:
            site = web.TCPSite(runner, host, port, ssl_context=context, backlog=_BACKLOG)
            await site.start()
            yield
        finally:
            self._runners.remove(runner)
            await runner.cleanup()

    async def _runner(self, guard: Guard | None) -> web.ServerRunner:
        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            return await self._serve(request, guard)

        server = _Server(
            serve,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,  # as Docker: a body is what was sent
            keepalive_timeout=_IDLE_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _serve(self, request: web.BaseRequest, guard: Guard | None) -> web.StreamResponse:
        response = await self._answer(request, guard)
        if not response.prepared:
            if "upgrade" in request.headers.get("Connection", "").lower():
                response.force_close()  # no takeover: whoever passes bytes on must see the end
            for name, value in self._headers.items():
                response.headers.setdefault(name, value)
        return response

    async def _answer(
        self, request: web.BaseRequest, guard: Guard | None
    ) -> web.StreamResponse:
        try:
            version, path = versions.split_path(request.rel_url.raw_path)
            found = self._router.find(request.method, path)
            if found is None:
                return error_response(404, "page not found")
        except ClusterError as error:
            return respond(error)
        route, parts = found
        call = Call(request, version, path, parts, self._headers)
        try:
            if guard is not None:
                guard(call)
            _continue(call)
            return await self._run(route, call)
        except ClusterError as error:
            log.debug("request refused", path=request.path, reason=str(error))
            return _instead(call, respond(error))
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            log.exception("request failed", method=request.method, path=request.path)
            sentence = "internal error; the daemon's log has the details"
            return _instead(call, error_response(500, sentence))

    async def _run(self, route: Route, call: Call) -> web.StreamResponse:
        if route.stream:
            return await route.handler(call)
        task = self._group.create_task(
            _outcome(route, call), name=f"{route.method} {call.path}"
        )
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        outcome = await asyncio.shield(task)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def _outcome(route: Route, call: Call) -> "web.StreamResponse | Exception":
    """A handler's end as a value: its failure is its client's, not the task group's."""
    try:
        return await route.handler(call)
    except Exception as error:  # noqa: BLE001 - raised again by the one who waits
        return error


def _instead(call: Call, failure: web.Response) -> web.Response:
    """The failure, unless an answer has begun: that one can only break off."""
    if call.begun:
        raise ConnectionResetError("the answer has begun, an error cannot follow it")
    return failure


def _clear(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


def _continue(call: Call) -> None:
    request = call.request
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        transport = request.transport
        if isinstance(transport, asyncio.Transport):
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
