"""Cluster paths: piped to the local manager where there is one, else refused as Swarm does.

The seam `Cluster` is what the rest of the API needs; `Gateway` is the plain form of it. The
pipe is of bytes, upgrades and streams included: nothing of the cluster half is understood here.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from shoal.common.engine_http.call import Call
from shoal.common.engine_http.hijack import Connection
from shoal.common.engine_http.router import Router
from shoal.model.errors import Unavailable, Unimplemented

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
_CHUNK = 1 << 16


class Cluster(Protocol):
    """What the API must know of the cluster this host is in, if it is in one."""

    async def serve(self, call: Call) -> web.StreamResponse:
        """Answer a request of the cluster half."""
        ...

    def swarm_info(self) -> Mapping[str, Any]:
        """The `Swarm` section of `info`."""
        ...

    def ping_state(self) -> str:
        """The `Swarm` header of a ping: `inactive`, `active/worker`, `active/manager`, ..."""
        ...


class Gateway:
    """Pipes to the manager's private socket while there is one.

    `manager` gives that socket's path; `info` the `Swarm` section.
    """

    def __init__(
        self,
        manager: Callable[[], Path | None],
        info: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._manager = manager
        self._info = info

    async def serve(self, call: Call) -> web.StreamResponse:
        path = self._manager()
        if path is not None:
            return await pipe(call, path)
        if self._info().get("LocalNodeState") == "active":
            raise Unavailable(WORKER)
        if call.path in ("/swarm/init", "/swarm/join"):
            raise Unimplemented(
                "this agent runs alone: start it under `shoal host` for a swarm"
            )
        raise Unavailable(NOT_IN_SWARM)

    def swarm_info(self) -> Mapping[str, Any]:
        return self._info()

    def ping_state(self) -> str:
        info = self._info()
        state = str(info.get("LocalNodeState", "inactive"))
        if state != "active":
            return state
        return "active/manager" if info.get("ControlAvailable") else "active/worker"


def inactive() -> Mapping[str, Any]:
    """The `Swarm` section of a host that is in no cluster."""
    return {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    }


def add_routes(router: Router, cluster: Cluster) -> None:
    """Every path below the cluster's roots, any method, whatever the manager makes of it."""
    for root in ROOTS:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            router.add(method, f"/{root}", cluster.serve, stream=True)
            router.add(method, f"/{root}/{{rest*}}", cluster.serve, stream=True)


async def pipe(call: Call, path: Path) -> web.StreamResponse:
    """Hand the request to another server of the API, and its answer back, byte for byte."""
    body = await call.raw_body()
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise Unavailable(
            "the manager of this host does not answer; try again in a moment", retry_after=1
        ) from error
    try:
        writer.write(_head(call, len(body)) + body)
        connection = call.take_over()
        await _splice(connection, reader, writer, upgraded=call.wants_upgrade)
        return connection.close()
    finally:
        writer.close()


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


async def _splice(
    client: Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    upgraded: bool,
) -> None:
    async with asyncio.TaskGroup() as group:
        upstream = group.create_task(_forward(client, writer, upgraded=upgraded))
        try:
            while data := await reader.read(_CHUNK):
                await client.write(data)
        except ConnectionError:
            pass  # one side is gone; nothing is left to forward
        upstream.cancel()


async def _forward(client: Connection, writer: asyncio.StreamWriter, *, upgraded: bool) -> None:
    try:
        while data := await client.read():
            writer.write(data)
            await writer.drain()
        if upgraded and writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        return  # the manager is gone; the other direction ends by itself
