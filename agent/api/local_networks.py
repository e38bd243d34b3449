"""The networks that a host has of its own: what `/networks` knows without a cluster.

`agent.api.networks` puts them together with the cluster's.
"""

from collections.abc import Iterable
from typing import Any

from agent.engine.container import Container
from agent.engine.describe import stamp
from agent.engine.networks import DRIVERS, GATEWAY_NETWORK, HostNetworks, UserNetwork
from agent.engine.pruning import Pruning
from agent.network.desired import BRIDGE, MESH, NOWHERE
from agent.network.plan import gateway_of
from shoal.common.clock import Clock
from shoal.common.engine_http.query import Filters
from shoal.model.errors import PermissionDenied
from shoal.model.spec.network import NetworkSpec
from shoal.model.validate.local_network import ICC, MASQUERADE

Json = dict[str, Any]
_OPTIONS = {
    BRIDGE: {
        "com.docker.network.bridge.default_bridge": "true",
        ICC: "true",
        MASQUERADE: "true",
    },
    GATEWAY_NETWORK: {ICC: "false", MASQUERADE: "true"},
}


class LocalNetworks:
    """The host's own three and the users'. `subnet` and `gateway` are those of `bridge`."""

    def __init__(
        self,
        networks: HostNetworks,
        containers: Iterable[Container],
        subnet: str,
        gateway: str,
        clock: Clock,
    ) -> None:
        self._networks = networks
        self._containers = containers
        self._subnet = subnet
        self._gateway = gateway
        self._clock = clock
        self._started_at = clock.now()

    def listed(self, filters: Filters) -> list[Json]:
        """Those that pass."""
        return [each for each in self._all() if self._passes(each, filters)]

    def matching(self, text: str) -> list[Json]:
        """All that a person may mean: by id, by name, by the start of an id."""
        return [
            each | {"Containers": self._members(each)}
            for each in self._all()
            if text == each["Name"] or each["Id"].startswith(text)
        ]

    def check_free(self, name: str) -> None:
        """Refuse a name that the host has a network of."""
        self._networks.check_free(name)

    async def create(self, spec: NetworkSpec) -> Json:
        """A new one; the answer to the client."""
        made = await self._networks.create(spec)
        return {"Id": made.id, "Warning": ""}

    async def remove(self, identity: str) -> None:
        """Take one away that no container is on."""
        await self._networks.remove(identity)

    async def prune(self, filters: Filters) -> list[str]:
        """Remove what no container is on; the names."""
        chosen, gone = Pruning(filters, self._clock.now()), []
        for made in list(self._networks):
            if self._networks.users_of(made.id):
                continue
            if chosen.takes(made.spec.labels, made.created_at):
                try:
                    await self._networks.remove(made.id)
                except PermissionDenied:
                    continue  # a container has joined meanwhile
                gone.append(made.name)
        return gone

    def _passes(self, shown: Json, filters: Filters) -> bool:
        builtin = shown["Name"] in DRIVERS
        dangling = filters.truth("dangling")
        unused = not builtin and not self._networks.users_of(shown["Id"])
        return (
            filters.pattern("name", shown["Name"])
            and filters.prefix("id", shown["Id"])
            and filters.exact("driver", shown["Driver"])
            and filters.exact("scope", "local")
            and filters.labels(shown["Labels"])
            and filters.exact("type", "builtin" if builtin else "custom")
            and dangling in (None, unused)
        )

    def _all(self) -> list[Json]:
        builtin = [self._builtin(name, i) for name, i in self._networks.builtin.items()]
        return [*builtin, *map(_user, self._networks)]

    def _members(self, shown: Json) -> Json:
        """Running containers on it, by their id."""
        name, identity = str(shown["Name"]), str(shown["Id"])
        network: str = {BRIDGE: BRIDGE, GATEWAY_NETWORK: MESH}.get(name, identity)
        found = {}
        for container in self._containers:
            record = container.record
            if not record.state.running:
                continue
            place = record.endpoint.on(network) if record.endpoint is not None else None
            if place is None:
                if record.network != name:  # `host` and `none` have no places
                    continue
                place = NOWHERE
            found[record.id] = {
                "Name": record.name,
                "EndpointID": record.id,
                "MacAddress": place.mac,
                "IPv4Address": next((a for a in place.addresses if ":" not in a), ""),
                "IPv6Address": next((a for a in place.addresses if ":" in a), ""),
            }
        return found

    def _builtin(self, name: str, identity: str) -> Json:
        pools = None
        if name == BRIDGE:
            pools = [{"Subnet": self._subnet, "Gateway": self._gateway}]
        subnet = self._networks.mesh.subnet if name == GATEWAY_NETWORK else ""
        if subnet:
            pools = [{"Subnet": subnet, "Gateway": gateway_of(subnet)}]
        return _shape(
            Name=name,
            Id=identity,
            Created=stamp(self._started_at),
            Driver=DRIVERS[name],
            IPAM={"Driver": "default", "Options": None, "Config": pools},
            Options=_OPTIONS.get(name, {}),
        )


def _user(made: UserNetwork) -> Json:
    spec = made.spec
    auxiliary = {each.subnet: dict(each.auxiliary_addresses) for each in spec.ipam.config}
    pools = []
    for pool in made.network.pools:
        shown: Json = {"Subnet": pool.subnet, "Gateway": pool.gateway}
        if pool.within:
            shown["IPRange"] = pool.within
        if auxiliary.get(pool.subnet):
            shown["AuxiliaryAddresses"] = auxiliary[pool.subnet]
        pools.append(shown)
    return _shape(
        Name=made.name,
        Id=made.id,
        Created=stamp(made.created_at),
        Driver=made.network.driver,
        EnableIPv6=spec.enable_ipv6,
        IPAM={"Driver": "default", "Options": dict(spec.ipam.options) or None, "Config": pools},
        Internal=spec.internal,
        Attachable=spec.attachable,
        Options=dict(spec.options),
        Labels=dict(spec.labels),
    )


def _shape(**own: Any) -> Json:
    return {
        "Name": "",
        "Id": "",
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": "",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    } | own
