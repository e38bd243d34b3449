"""`/containers/{id}/...` and `/exec/{id}/...` for what this host does not have.

A manager knows which node runs a task's container; for any other it asks every node that is
heard of. Then the request is passed on to that node's agent and its answer passed back, byte
for byte, in both directions until both have ended: also a taken-over connection. The agent of
this host asks here only for what it does not have itself.
"""

import asyncio
from urllib.parse import quote

import structlog
from aiohttp import web

from manager.api.agents import ask, read_head, request_head
from manager.api.backend import Backend
from manager.store.memory import Memory
from shoal.common.engine_http import relay
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.hop import HOP
from shoal.common.engine_http.router import Router
from shoal.model.errors import ClusterError, NotFound, Unavailable
from shoal.model.ids import NodeID
from shoal.model.states import NodeState

_log = structlog.get_logger(__name__)

SEARCH_SECONDS = 3.0
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


class ContainerHandlers:
    """Passes requests on to the node that has the container."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        for method in _METHODS:
            router.add(method, "/containers/{id}", self.container, stream=True)
            router.add(method, "/containers/{id}/{rest*}", self.container, stream=True)
            router.add(method, "/exec/{id}/{rest*}", self.execution, stream=True)

    async def container(self, call: Call) -> web.StreamResponse:
        _refuse_hop(call, "container")
        text = call.parts["id"]
        node = container_node(self._backend.operations.memory, text)
        if node is None:
            node = await self._search(f"/containers/{quote(text, safe='')}/json")
        if node is None:
            raise NotFound(f"No such container: {text}")
        return await self._pass_on(call, node)

    async def execution(self, call: Call) -> web.StreamResponse:
        _refuse_hop(call, "exec instance")
        node = await self._search(f"/exec/{quote(call.parts['id'], safe='')}/json")
        if node is None:
            raise NotFound(f"No such exec instance: {call.parts['id']}")
        return await self._pass_on(call, node)

    async def _search(self, target: str) -> NodeID | None:
        """The first node that has it, asking all at once; this host's agent has looked."""
        operations = self._backend.operations
        nodes = [
            node.id
            for node in operations.memory.nodes()
            if node.state is NodeState.READY and node.id != operations.me
        ]
        found: list[NodeID] = []

        async def look(node: NodeID) -> None:
            try:
                status, _ = await ask(self._backend.door, node, target)
            except ClusterError as error:
                _log.info("a node cannot be asked", node=node, reason=str(error))
            else:
                if status == 200:
                    found.append(node)

        try:
            async with asyncio.timeout(SEARCH_SECONDS), asyncio.TaskGroup() as group:
                for node in nodes:
                    group.create_task(look(node))
        except TimeoutError:
            _log.info("not every node answered in time", target=target)
        return min(found, default=None)

    async def _pass_on(self, call: Call, node: NodeID) -> web.StreamResponse:
        line = await self._backend.door.open(node)
        try:
            head = request_head(call.request.method, relay.target(call), relay.headers(call))
            line.writer.write(head)
            await relay.send_body(call, line.writer)
            answer = await read_head(line, node)
            client = call.take_over()
            client.send_head(answer.raw)
            agent = relay.Pieces(line.reader, line.writer)
            await relay.both_ways(client, agent, upgraded=call.wants_upgrade)
            return client.close()
        except OSError as error:
            raise Unavailable(f"the connection to node {node} broke: {error}") from error
        finally:
            line.writer.close()


def container_node(memory: Memory, text: str) -> NodeID | None:
    """The node that runs the task whose container is meant: by id, its start, or name."""
    wanted = text.removeprefix("/")
    found: set[NodeID] = set()
    for task in memory.tasks():
        if task.node_id is None or task.status.container is None:
            continue
        identity = task.status.container.container_id
        if wanted in (identity, task.name):
            return task.node_id
        if identity.startswith(wanted):
            found.add(task.node_id)
    return found.pop() if len(found) == 1 else None


def _refuse_hop(call: Call, what: str) -> None:
    """A request that came through a manager already is not passed on again."""
    if HOP in call.request.headers:
        raise NotFound(f"No such {what}: {call.parts['id']}")
