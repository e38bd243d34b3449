"""`/networks`, the cluster's part: listing and looking at; the agent merges its host's own.

Making and removing cluster networks answers 501: there is one network yet, which is the
cluster's own and has no name.
"""

from aiohttp import web

from manager.api.backend import Backend
from manager.api.wire.payloads import network_json
from manager.control.lookup import find_network
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.errors import Unimplemented
from shoal.model.validate.refusal import unimplemented

NETWORK_FILTERS = frozenset({"driver", "id", "label", "name", "scope", "type", "dangling"})


class NetworkHandlers:
    """The handlers of cluster networks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/networks", self.list)
        router.add("POST", "/networks/create", self.refuse)
        router.add("GET", "/networks/{id}", self.inspect)
        router.add("DELETE", "/networks/{id}", self.remove)

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters(NETWORK_FILTERS)
        view = (await self._backend.read(call)).memory
        return call.json(
            [
                network_json(one)
                for one in view.networks()
                if filters.prefix("id", one.id)
                and filters.pattern("name", one.name)
                and filters.exact("driver", one.driver)
                and filters.exact("scope", "swarm")
                and filters.labels(one.labels)
                and filters.exact("type", "custom")
                and filters.truth("dangling") is not True
            ]
        )

    async def inspect(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        return call.json(network_json(find_network(view, call.parts["id"])))

    async def remove(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        find_network(view, call.parts["id"])
        raise _missing()

    async def refuse(self, call: Call) -> web.StreamResponse:
        raise _missing()


def _missing() -> Unimplemented:
    return unimplemented(
        "", "cluster networks cannot be made or removed yet; services share the cluster's own"
    )
