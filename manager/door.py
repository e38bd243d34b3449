"""Opens connections to agents' Engine APIs: mutual TLS, as this manager, by node."""

import asyncio

from manager.api.backend import Line
from manager.store.memory import Memory
from shoal.common.identity import CurrentIdentity
from shoal.common.tls import client_context
from shoal.model.errors import FailedPrecondition, NotFound, Unavailable
from shoal.model.ids import NodeID

OPEN_SECONDS = 3.0


class Doors:
    """Implements `manager.api.backend.AgentDoor`; `port` is where agents listen."""

    def __init__(self, memory: Memory, current: CurrentIdentity, port: int) -> None:
        self._memory = memory
        self._current = current
        self._port = port

    async def open(self, node: NodeID) -> Line:
        found = self._memory.node(node)
        if found is None or not found.addr:
            raise NotFound(f"node {node} has no address in this cluster")
        context = client_context(self._current.get())
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                reader, writer = await asyncio.open_connection(
                    found.addr, self._port, ssl=context, server_hostname=node
                )
        except (OSError, TimeoutError) as error:
            name = found.description.hostname if found.description is not None else node
            raise Unavailable(f"the agent of node {name} does not answer: {error}") from error
        return Line(reader, writer)


class AgentLeaves:
    """Leaving is the agent's, which owns identity and containers."""

    async def leave(self, *, force: bool) -> None:
        del force
        raise FailedPrecondition("leave through the Engine API of the host that shall leave")
