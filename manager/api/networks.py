"""`/networks`, the cluster's part; the agent merges its host's own."""

from aiohttp import web

from manager.api.backend import Backend
from manager.api.wire.networks import (
    host_network_json,
    network_json,
    peers_json,
    services_json,
)
from manager.control.lookup import find_network, networks_of
from manager.control.networks import in_use
from manager.view import View
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.instants import nanoseconds, parse_instant
from shoal.common.engine_http.query import Filters
from shoal.common.engine_http.router import Router
from shoal.model.errors import InvalidArgument, NotFound
from shoal.model.objects import Network
from shoal.model.spec.network import HOST, HOST_NETWORK, NetworkSpec

NETWORK_FILTERS = frozenset({"driver", "id", "label", "name", "scope", "type", "dangling"})
PRUNE_FILTERS = frozenset({"label", "label!", "until"})


class NetworkHandlers:
    """The handlers of cluster networks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/networks", self.list)
        router.add("POST", "/networks/create", self.create)
        router.add("POST", "/networks/prune", self.prune)
        router.add("GET", "/networks/{id}", self.inspect)
        router.add("DELETE", "/networks/{id}", self.remove)

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters(NETWORK_FILTERS)
        kinds = filters.get("type")
        if any(kind not in ("builtin", "custom") for kind in kinds):
            raise InvalidArgument(f"invalid filter 'type={kinds[0]}'", field="filters.type")
        view = (await self._backend.read(call)).memory
        return call.json(
            [network_json(one) for one in networks_of(view) if _passes(view, one, filters)]
        )

    async def create(self, call: Call) -> web.StreamResponse:
        spec = await call.body(NetworkSpec)
        identity = await self._backend.operations.networks.create(spec)
        return call.json({"Id": identity, "Warning": ""}, 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        text, scope = call.parts["id"], call.text("scope")
        if scope not in ("", "swarm", "global"):
            raise NotFound(f"network {text} not found")
        if text == HOST_NETWORK or (text == HOST and scope == "swarm"):
            return call.json(host_network_json(view))
        network = find_network(view, text)
        shown = network_json(network)
        if peers := peers_json(view, network):
            shown["Peers"] = peers
        if call.flag("verbose"):
            shown["Services"] = services_json(view, network)
        return call.json(shown)

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._backend.operations.networks.remove(call.parts["id"])
        return call.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters(PRUNE_FILTERS)
        until = filters.get("until")
        if len(until) > 1:
            raise InvalidArgument("more than one until filter specified", field="filters.until")
        before = None
        if until:
            before = parse_instant(until[0], "filters.until", self._backend.clock.now())
        operations = await self._backend.read(call)
        unused = [
            network
            for network in networks_of(operations.memory)
            if not in_use(operations.memory, network)
            and filters.labels(network.spec.labels)
            and not _unwanted(filters, network)
            and (before is None or nanoseconds(network.created_at) < before)
        ]
        gone = [
            network.name
            for network in unused
            if await operations.networks.remove_if_unused(network.id)
        ]
        return call.json({"NetworksDeleted": gone or None})


def _passes(view: View, network: Network, filters: Filters) -> bool:
    dangling = filters.truth("dangling")
    return (
        filters.prefix("id", network.id)
        and filters.pattern("name", network.name)
        and filters.exact("driver", network.spec.driver)
        and filters.exact("scope", network.spec.scope)
        and filters.labels(network.spec.labels)
        and filters.exact("type", "custom")
        and (dangling is None or dangling is not in_use(view, network))
    )


def _unwanted(filters: Filters, network: Network) -> bool:
    """Whether it has the labels whose bearers are to be kept."""
    return "label!" in filters and filters.labels(network.spec.labels, "label!")
