"""`/networks`: those of the host and those of the cluster, as one list.

What a person names is looked for in both, and means the same to inspect as to remove.
"""

from collections.abc import Sequence

from aiohttp import web

from agent.api.cluster_networks import ClusterNetworks
from agent.api.local_networks import Json, LocalNetworks
from shoal.common.engine_http.body import decode
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from shoal.model.spec.network import NetworkSpec

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_FILTERS = frozenset({"label", "label!", "until"})
_OF_CLUSTER = ("swarm", "global")


class Networks:
    """Handlers of networks."""

    def __init__(self, local: LocalNetworks, cluster: ClusterNetworks) -> None:
        self._local = local
        self._cluster = cluster

    def add_routes(self, router: Router) -> None:
        router.add("GET", "/networks", self.list_all)
        router.add("POST", "/networks/create", self.create)
        router.add("POST", "/networks/prune", self.prune)
        router.add("GET", "/networks/{id}", self.inspect)
        router.add("DELETE", "/networks/{id}", self.remove)

    async def list_all(self, call: Call) -> web.StreamResponse:
        filters = call.filters(_FILTERS)
        kind = filters.get("type")
        if any(value not in ("builtin", "custom") for value in kind):
            raise InvalidArgument(f"invalid filter 'type={kind[0]}'", field="filters.type")
        of_cluster = await self._cluster.listed(filters, call.text("filters"))
        return call.json(of_cluster + self._local.listed(filters))

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.json_body()
        spec = decode(body, NetworkSpec)
        if _for_cluster(spec):
            self._local.check_free(spec.name)
            return call.json(await self._cluster.create(body), 201)
        if await self._cluster.named(spec.name):
            raise AlreadyExists(f"network with name {spec.name} already exists")
        return call.json(await self._local.create(spec), 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        text, scope = call.parts["id"], call.text("scope")
        return call.json(await self._find(text, scope, verbose=call.flag("verbose")))

    async def remove(self, call: Call) -> web.StreamResponse:
        found = await self._find(call.parts["id"], "", verbose=False)
        if found["Scope"] == "local":
            await self._local.remove(found["Id"])
        else:
            await self._cluster.remove(found["Id"])
        return call.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters(_PRUNE_FILTERS)
        gone = await self._cluster.prune(call.text("filters"))  # may fail; then nothing is gone
        gone += await self._local.prune(filters)
        return call.json({"NetworksDeleted": gone or None})

    async def _find(self, text: str, scope: str, *, verbose: bool) -> Json:
        """The one network that is meant, in full."""
        here = self._local.matching(text) if scope in ("", "local") else []
        for one in here:
            if one["Id"] == text:
                return one
        if scope == "local":
            return _only(text, here)
        try:
            there = await self._cluster.matching(text, scope, verbose=verbose)
        except Unavailable:
            if not here:
                raise
            there = []
        return _only(text, [*here, *there])


def _for_cluster(spec: NetworkSpec) -> bool:
    """Whether a manager makes it; a host makes all others by itself."""
    return spec.driver == "overlay" or spec.scope in _OF_CLUSTER or spec.ingress


def _only(text: str, found: Sequence[Json]) -> Json:
    """The best match: an id before a name before the start of an id."""
    for how, fits in (
        ("ID", [one for one in found if one["Id"] == text]),
        ("name", [one for one in found if one["Name"] == text]),
        ("ID prefix", [one for one in found if one["Id"].startswith(text)]),
    ):
        if len(fits) > 1:
            raise InvalidArgument(
                f"network {text} is ambiguous ({len(fits)} matches found based on {how})"
            )
        if fits:
            return fits[0]
    raise NotFound(f"network {text} not found")
