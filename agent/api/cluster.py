"""Cluster paths: piped to the local manager where there is one, else refused as Swarm does.

The seam `Cluster` is what the rest of the API needs. The three calls that need no manager
(init, join, leave) are the host's own. The pipe is of bytes, upgrades and streams included:
nothing of the cluster half is understood here.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec
import structlog
from aiohttp import web

from agent.swarm import JoinRequest
from shoal.common.engine_http import relay
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.failures import error_of
from shoal.common.engine_http.router import Router
from shoal.common.key_files import LOCKED
from shoal.model.assignment import Assignments
from shoal.model.errors import ClusterError, Unavailable

_OK = 200
ROOTS = ("swarm", "nodes", "services", "tasks", "secrets", "configs")

NOT_IN_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to'
    " connect this node to swarm and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster"
    " state. Please run this command on a manager node or promote the current node to a"
    " manager."
)
_INFO_SECONDS = 5.0
_ASK_SECONDS = 30.0
_REFUSED = 400
_SILENT = "the manager of this host does not answer; try again in a moment"

Lines = AsyncIterable[bytes]

log = structlog.get_logger(__name__)


class ClusterInfo(msgspec.Struct, frozen=True):
    """The `Swarm` section of `info`, and what it warns of."""

    swarm: Mapping[str, Any]
    warnings: Sequence[str] = ()


class Cluster(Protocol):
    """What the API must know of the cluster this host is in, if it is in one."""

    async def serve(self, call: Call) -> web.StreamResponse:
        """Answer a request of the cluster half."""
        ...

    async def pass_on(self, call: Call, otherwise: ClusterError) -> web.StreamResponse:
        """Have a manager answer for the host that has what is meant.

        `otherwise` is raised where this host is no manager.
        """
        ...

    async def info(self) -> "ClusterInfo":
        """The cluster's part of `info`."""
        ...

    def events(self, query: Mapping[str, str]) -> AbstractAsyncContextManager[Lines | None]:
        """The cluster's events of a query as lines of JSON; None where this is no manager.

        On entry the manager has subscribed: what happens from then on is among the lines.
        """
        ...

    def ping_state(self) -> str:
        """The `Swarm` header of a ping: `inactive`, `active/worker`, `active/manager`, ..."""
        ...


class Asked(Protocol):
    """A manager that can be asked, if this host has one, and what its node was told."""

    @property
    def manages(self) -> bool:
        """Whether this host has a manager that can be asked."""
        ...

    async def ask(
        self, method: str, path: str, query: Mapping[str, str], body: bytes = b""
    ) -> Any:
        """What the manager of this host answers, decoded; its refusals are raised.

        Raises:
            Unavailable: with Swarm's sentence where this host is no manager.
        """
        ...

    def told(self) -> Assignments:
        """What this host's node was told last; nothing outside of a cluster."""
        ...


class Membership(Protocol):
    """How this host enters and leaves a cluster; `agent.swarm.HostCluster` is it."""

    async def init(self, body: bytes) -> tuple[int, bytes]:
        """Found a cluster: status and JSON of the answer."""
        ...

    async def join(self, request: JoinRequest) -> None: ...

    async def leave(self, *, force: bool) -> None: ...

    def section(self) -> dict[str, Any]:
        """The `Swarm` section of `info` as far as this node knows by itself."""
        ...

    def told(self) -> Assignments:
        """What this node was told last; nothing outside of a cluster."""
        ...


class Gateway:
    """Pipes to the manager's private socket while this node is a manager."""

    def __init__(self, socket: Path, membership: Membership) -> None:
        self._socket = socket
        self._membership = membership

    async def serve(self, call: Call) -> web.StreamResponse:
        match call.request.method, call.path:
            case "POST", "/swarm/init":
                status, answer = await self._membership.init(await call.json_body())
                return call.json_bytes(answer, status)
            case "POST", "/swarm/join":
                await self._membership.join(await call.body(JoinRequest))
                return call.empty(200)
            case "POST", "/swarm/leave":
                await self._membership.leave(force=call.flag("force"))
                return call.empty(200)
            case "POST", "/swarm/unlock" if _is_locked(self._membership.section()):
                return await pipe(call, self._socket.with_name("locked.sock"))
            case _:
                return await self._of_manager(call)

    async def _of_manager(self, call: Call) -> web.StreamResponse:
        self._must_manage()
        return await pipe(call, self._socket)

    @property
    def manages(self) -> bool:
        return bool(self._membership.section()["ControlAvailable"])

    def _must_manage(self) -> None:
        section = self._membership.section()
        if _is_locked(section):
            raise Unavailable(LOCKED)
        if not section["ControlAvailable"]:
            raise Unavailable(WORKER if section["NodeID"] else NOT_IN_SWARM)

    async def ask(
        self, method: str, path: str, query: Mapping[str, str], body: bytes = b""
    ) -> Any:
        self._must_manage()
        connector = aiohttp.UnixConnector(str(self._socket))
        limit = aiohttp.ClientTimeout(total=_ASK_SECONDS)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limit) as client,
                client.request(
                    method,
                    f"http://manager{path}",
                    params=query,
                    data=body or None,
                    headers=headers,
                ) as answer,
            ):
                told = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(_SILENT, retry_after=1) from error
        if answer.status >= _REFUSED:
            raise error_of(answer.status, str((told or {}).get("message", "")))
        return told

    def told(self) -> Assignments:
        return self._membership.told()

    async def pass_on(self, call: Call, otherwise: ClusterError) -> web.StreamResponse:
        if not self.manages:
            raise otherwise
        return await pipe_stream(call, self._socket)

    async def info(self) -> ClusterInfo:
        section = self._membership.section()
        if not section["ControlAvailable"]:
            return ClusterInfo(section)
        connector = aiohttp.UnixConnector(str(self._socket))
        limit = aiohttp.ClientTimeout(total=_INFO_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limit) as client,
                client.get("http://manager/internal/info") as answer,
            ):
                told = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("the local manager does not answer", reason=str(error))
            sentence = "the manager of this host does not answer"
            return ClusterInfo({**section, "Error": sentence})
        if answer.status != _OK:
            return ClusterInfo({**section, "Error": str(told.get("message", ""))})
        return ClusterInfo({**section, **told["Swarm"]}, told["Warnings"])

    @asynccontextmanager
    async def events(self, query: Mapping[str, str]) -> AsyncIterator[Lines | None]:
        if not self.manages:
            yield None
            return
        connector = aiohttp.UnixConnector(str(self._socket))
        limit = aiohttp.ClientTimeout(sock_connect=_INFO_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as client:
            try:
                answer = await client.get("http://manager/events", params=query)
            except aiohttp.ClientError as error:
                raise Unavailable(_SILENT, retry_after=1) from error
            yield answer.content

    def ping_state(self) -> str:
        section = self._membership.section()
        state = str(section["LocalNodeState"])
        if state != "active":
            return state
        return "active/manager" if section["ControlAvailable"] else "active/worker"


def _is_locked(section: Mapping[str, Any]) -> bool:
    return bool(section["LocalNodeState"] == "locked")


def add_routes(router: Router, cluster: Cluster) -> None:
    """Every path below the cluster's roots, any method, whatever the manager makes of it."""
    for root in ROOTS:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            router.add(method, f"/{root}", cluster.serve, stream=True)
            router.add(method, f"/{root}/{{rest*}}", cluster.serve, stream=True)


async def pipe(call: Call, path: Path) -> web.StreamResponse:
    """Hand a request with a small body to another server of the API, and its answer back."""
    body = await call.raw_body()
    async with _connected(path) as (reader, writer):
        writer.write(_head(call, len(body)) + body)
        return await _answered(call, reader, writer)


async def pipe_stream(call: Call, path: Path) -> web.StreamResponse:
    """The same for a body of any size, which the other end judges."""
    async with _connected(path) as (reader, writer):
        lines = [f"{call.request.method} {relay.target(call)} HTTP/1.1", "Host: docker"]
        lines += [f"{name}: {value}" for name, value in relay.headers(call).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))
        try:
            await relay.send_body(call, writer)
        except ConnectionError:
            log.debug("the manager answers before the whole body is there")
        return await _answered(call, reader, writer)


@asynccontextmanager
async def _connected(
    path: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise Unavailable(_SILENT, retry_after=1) from error
    try:
        yield reader, writer
    finally:
        writer.close()


async def _answered(
    call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> web.StreamResponse:
    client = call.take_over()
    manager = relay.Plain(reader, writer)
    await relay.both_ways(client, manager, upgraded=call.wants_upgrade)
    return client.close()


def _head(call: Call, length: int) -> bytes:
    request = call.request
    lines = [f"{request.method} {request.raw_path} HTTP/1.1"]
    skipped = {"content-length", "transfer-encoding", "expect"}
    if not call.wants_upgrade:
        skipped.add("connection")
        lines.append("Connection: close")
    if length or request.method in ("POST", "PUT"):
        lines.append(f"Content-Length: {length}")
    lines += [f"{k}: {v}" for k, v in request.headers.items() if k.lower() not in skipped]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
