"""`/nodes`: thin handlers over `manager.control.nodes`."""

from aiohttp import web

from manager.api.backend import Backend
from manager.api.services import version_of
from manager.api.wire.nodes import node_json
from manager.control.cluster import TLSInfo, node_tls
from manager.control.listing import NODE_FILTERS, list_nodes
from manager.control.lookup import find_node
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.objects import Node
from shoal.model.spec.node import NodeSpec


class NodeHandlers:
    """The handlers of nodes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/nodes", self.list)
        router.add("GET", "/nodes/{id}", self.inspect)
        router.add("POST", "/nodes/{id}/update", self.update)
        router.add("DELETE", "/nodes/{id}", self.remove)

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters(NODE_FILTERS)
        view = (await self._backend.read(call)).memory
        return call.json([self._shown(node) for node in list_nodes(view, filters)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        return call.json(self._shown(find_node(view, call.parts["id"])))

    def _shown(self, node: Node) -> dict[str, object]:
        cluster = self._backend.operations.memory.cluster()
        trust = node_tls(cluster, node) if cluster is not None else TLSInfo()
        return node_json(node, self._backend.leader(), trust)

    async def update(self, call: Call) -> web.StreamResponse:
        spec = await call.body(NodeSpec)
        nodes = self._backend.operations.nodes
        await nodes.update(call.parts["id"], spec, version_of(call))
        return call.empty(200)

    async def remove(self, call: Call) -> web.StreamResponse:
        nodes = self._backend.operations.nodes
        await nodes.remove(call.parts["id"], force=call.flag("force"))
        return call.empty(200)
