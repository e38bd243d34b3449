"""`/networks`: the host's own three. Networks of the cluster are the manager's."""

from typing import Any

from aiohttp import web

from agent.engine.engine import Engine
from agent.network.desired import NOWHERE
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.errors import InvalidArgument, NotFound, PermissionDenied, Unimplemented

_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}
_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


class Networks:
    """Handlers of networks. `subnet` and `gateway` are those of `bridge`."""

    def __init__(self, engine: Engine, subnet: str, gateway: str) -> None:
        self._engine = engine
        self._subnet = subnet
        self._gateway = gateway

    def add_routes(self, router: Router) -> None:
        router.add("GET", "/networks", self.list_all)
        router.add("POST", "/networks/create", self.unbuilt)
        router.add("POST", "/networks/prune", self.prune)
        router.add("GET", "/networks/{id}", self.inspect)
        router.add("DELETE", "/networks/{id}", self.remove)
        router.add("POST", "/networks/{id}/connect", self.unbuilt)
        router.add("POST", "/networks/{id}/disconnect", self.unbuilt)

    async def list_all(self, call: Call) -> web.StreamResponse:
        filters = call.filters(_FILTERS)
        kind = filters.get("type")
        if any(value not in ("builtin", "custom") for value in kind):
            raise InvalidArgument(f"invalid filter 'type={kind[0]}'", field="filters.type")
        chosen = [
            self._shape(name, identity)
            for name, identity in self._engine.networks.items()
            if filters.pattern("name", name)
            and filters.prefix("id", identity)
            and filters.exact("driver", _DRIVERS[name])
            and filters.exact("scope", "local")
            and filters.labels({})
            and (not kind or "builtin" in kind)
            and filters.truth("dangling") is not True
        ]
        return call.json(chosen)

    async def inspect(self, call: Call) -> web.StreamResponse:
        name, identity = self._find(call.parts["id"])
        if call.text("scope") not in ("", "local"):
            raise NotFound(f"network {call.parts['id']} not found")
        return call.json(self._shape(name, identity) | {"Containers": self._members(name)})

    async def remove(self, call: Call) -> web.StreamResponse:
        name, _ = self._find(call.parts["id"])
        raise PermissionDenied(f"{name} is a pre-defined network and cannot be removed")

    async def prune(self, call: Call) -> web.StreamResponse:
        call.filters({"label", "label!", "until"})
        return call.json({"NetworksDeleted": None})  # the host's own are never unused

    async def unbuilt(self, call: Call) -> web.StreamResponse:
        raise Unimplemented(
            "networks of a user's own are not there yet: use bridge, host or none"
        )

    def _find(self, text: str) -> tuple[str, str]:
        for name, identity in self._engine.networks.items():
            if text in (name, identity):
                return name, identity
        matches = [(n, i) for n, i in self._engine.networks.items() if i.startswith(text)]
        if len(matches) != 1:
            raise NotFound(f"network {text} not found")
        return matches[0]

    def _members(self, name: str) -> dict[str, Any]:
        found = {}
        for container in self._engine.registry:
            record = container.record
            if record.network != name or not record.state.running:
                continue
            place = (record.endpoint.on(name) if record.endpoint else None) or NOWHERE
            address = f"{place.ipv4}/{place.prefix_length}" if place.ipv4 else ""
            found[record.id] = {
                "Name": record.name,
                "EndpointID": record.id,
                "MacAddress": place.mac,
                "IPv4Address": address,
                "IPv6Address": "",
            }
        return found

    def _shape(self, name: str, identity: str) -> dict[str, Any]:
        pools = [{"Subnet": self._subnet, "Gateway": self._gateway}]
        return {
            "Name": name,
            "Id": identity,
            "Created": "0001-01-01T00:00:00Z",
            "Scope": "local",
            "Driver": _DRIVERS[name],
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {
                "Driver": "default",
                "Options": None,
                "Config": pools if name == "bridge" else None,
            },
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": {},
            "Options": {},
            "Labels": {},
        }
