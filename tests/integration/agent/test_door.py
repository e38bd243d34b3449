"""The agent's door for managers follows the host from one cluster into the next."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from agent.door import Door
from shoal.common.certificates import Role
from shoal.common.config import HostConfig
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.common.identity import CurrentIdentity
from shoal.common.tls import client_context
from shoal.model.assignment import ManagerAddress
from shoal.model.ids import NodeID
from tests.integration.agent.cluster import Lab

pytestmark = pytest.mark.timeout(30)


class Membership:
    """A host that is in one cluster, then in none, then in another."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self.agent: Any = None
        self.identity: CurrentIdentity | None = None
        self._moved = asyncio.Condition()

    async def move(self, lab: Lab | None, manager: str = "") -> None:
        managers = (ManagerAddress(node_id=NodeID(manager), address=""),)
        self.identity = None
        if lab is not None:
            self.agent = SimpleNamespace(state=lambda: SimpleNamespace(managers=managers))
            self.identity = CurrentIdentity(lab.identity(NodeID("host"), Role.WORKER))
        async with self._moved:
            self._moved.notify_all()

    async def first_identity(self) -> CurrentIdentity:
        async with self._moved:
            await self._moved.wait_for(lambda: self.identity is not None)
        assert self.identity is not None
        return self.identity

    async def left(self, current: CurrentIdentity) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.identity is not current)


@pytest.fixture
async def server() -> AsyncIterator[EngineServer]:
    async def ping(call: Call) -> Any:
        return call.json("OK")

    router = Router()
    router.add("GET", "/_ping", ping)
    async with EngineServer(router) as made:
        yield made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


async def ask(port: int, lab: Lab, manager: NodeID) -> int:
    context = client_context(lab.identity(manager, Role.MANAGER))
    async with (
        aiohttp.ClientSession() as client,
        client.get(
            f"https://127.0.0.1:{port}/_ping", ssl=context, server_hostname="host"
        ) as answer,
    ):
        return answer.status


async def eventually(port: int, lab: Lab, manager: NodeID) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                return await ask(port, lab, manager)
            except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError) as error:
                if isinstance(error, aiohttp.ClientConnectorCertificateError):
                    raise
                await asyncio.sleep(0.01)


async def until_closed(port: int, lab: Lab, manager: NodeID) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                assert await ask(port, lab, manager) in (200, 403)
            except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
                return


async def test_each_cluster_meets_its_own_certificate(server: EngineServer) -> None:
    first, second, manager = Lab(), Lab(), NodeID("manager")
    port = free_port()
    config = HostConfig(address="127.0.0.1", agent_port=port)
    membership = Membership(config)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(Door(membership, server, config).run())
        await membership.move(first, manager)
        assert await eventually(port, first, manager) == 200
        await membership.move(None)
        await until_closed(port, first, manager)
        await membership.move(second, manager)
        assert await eventually(port, second, manager) == 200
        with pytest.raises((aiohttp.ClientConnectorError, ssl.SSLError, aiohttp.ClientOSError)):
            await ask(port, first, manager)
        running.cancel()
