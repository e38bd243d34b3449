"""The networks that a host has of its own: what `/networks` knows without a cluster.

`agent.api.networks` puts them together with the cluster's.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from agent.engine.container import Container
from agent.network.desired import NOWHERE
from shoal.common.engine_http.query import Filters
from shoal.model.errors import NotFound, PermissionDenied, Unimplemented
from shoal.model.spec.network import NetworkSpec

_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}

Json = dict[str, Any]


class Host(Protocol):
    """What is used of the engine: ids of the host's networks by name, and its containers."""

    @property
    def networks(self) -> Mapping[str, str]: ...

    @property
    def registry(self) -> Iterable[Container]: ...


class LocalNetworks:
    """The host's own three. `subnet` and `gateway` are those of `bridge`."""

    def __init__(self, host: Host, subnet: str, gateway: str) -> None:
        self._host = host
        self._subnet = subnet
        self._gateway = gateway

    def listed(self, filters: Filters) -> list[Json]:
        """Those that pass."""
        return [
            self._shape(name, identity)
            for name, identity in self._host.networks.items()
            if filters.pattern("name", name)
            and filters.prefix("id", identity)
            and filters.exact("driver", _DRIVERS[name])
            and filters.exact("scope", "local")
            and filters.labels({})
            and filters.exact("type", "builtin")
            and filters.truth("dangling") is not True
        ]

    def matching(self, text: str) -> list[Json]:
        """All that a person may mean: by id, by name, by the start of an id."""
        return [
            self._shape(name, identity) | {"Containers": self._members(name)}
            for name, identity in self._host.networks.items()
            if text == name or identity.startswith(text)
        ]

    def check_free(self, name: str) -> None:
        """Refuse a name that the host has a network of."""
        if name in self._host.networks:
            raise PermissionDenied(f"{name} is a pre-defined network and cannot be created")

    async def create(self, spec: NetworkSpec) -> Json:
        """A new one; the answer to the client."""
        self.check_free(spec.name)
        raise Unimplemented(
            "networks of one host are not there yet: use an overlay network, bridge, host or"
            " none"
        )

    async def remove(self, identity: str) -> None:
        """Take one away that no container is on."""
        for name, known in self._host.networks.items():
            if known == identity:
                raise PermissionDenied(f"{name} is a pre-defined network and cannot be removed")
        raise NotFound(f"network {identity} not found")

    async def prune(self, filters: Filters) -> list[str]:
        """Remove what nothing is on; the names. The host's own three are never unused."""
        del filters
        return []

    def _members(self, name: str) -> dict[str, Any]:
        found = {}
        for container in self._host.registry:
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
