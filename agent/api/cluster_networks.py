"""The cluster's networks as this host's API shows them.

A manager asks its own manager process; a worker knows the networks that it has tasks on, from
its assignments, and so does a manager whose store has no quorum. Which of this host's
containers are on a network is always the host's to say.
"""

from collections.abc import Iterable
from urllib.parse import quote

import structlog

from agent.api.assigned_networks import members, network_json, networks_of, services_json
from agent.api.cluster import Asked
from agent.api.local_networks import Json
from agent.engine.container import Container
from shoal.common.engine_http.query import Filters
from shoal.model.assignment import AssignedNetwork
from shoal.model.errors import NotFound, Unavailable

log = structlog.get_logger(__name__)


class ClusterNetworks:
    """Networks of the cluster; `containers` are this host's."""

    def __init__(self, cluster: Asked, containers: Iterable[Container]) -> None:
        self._cluster = cluster
        self._containers = containers

    async def listed(self, filters: Filters, text: str) -> list[Json]:
        """Those that pass the filters, which were sent as `text`."""
        if self._cluster.manages:
            try:
                found: list[Json] = await self._cluster.ask(
                    "GET", "/networks", {"filters": text} if text else {}
                )
            except Unavailable as error:
                log.warning("only the networks that this host is on", reason=str(error))
            else:
                return found
        return [
            network_json(self._cluster.told(), one)
            for one in self._told()
            if _passes(one, filters)
        ]

    async def matching(self, text: str, scope: str = "", *, verbose: bool) -> list[Json]:
        """The one that the manager takes it for, or all of this host's that it may mean."""
        if not self._cluster.manages:
            return self._matching_here(text, verbose=verbose)
        try:
            shown: Json = await self._cluster.ask(
                "GET",
                f"/networks/{quote(text, safe='')}",
                {"verbose": "1" if verbose else "0", "scope": scope},
            )
        except NotFound:
            return []
        except Unavailable:
            found = self._matching_here(text, verbose=verbose)
            if not found:
                raise
            return found
        return [shown | {"Containers": self._members(shown["Id"])}]

    def _matching_here(self, text: str, *, verbose: bool) -> list[Json]:
        told = self._cluster.told()
        return [
            network_json(told, one)
            | {"Containers": self._members(one.id)}
            | (services_json(told, one) if verbose else {})
            for one in self._told()
            if text == one.name or one.id.startswith(text)
        ]

    async def named(self, name: str) -> bool:
        """Whether the cluster has a network of exactly this name, as far as this host knows."""
        found = await self.matching(name, verbose=False)
        return any(one["Name"] == name for one in found)

    async def create(self, body: bytes) -> Json:
        """Have the manager make one; its answer to the client."""
        answer: Json = await self._cluster.ask("POST", "/networks/create", {}, body)
        return answer

    async def remove(self, identity: str) -> None:
        """Have the manager remove it, unless it is in use."""
        await self._cluster.ask("DELETE", f"/networks/{identity}", {})

    async def prune(self, filters: str) -> list[str]:
        """Have the manager remove what nothing is on; their names. A worker removes none."""
        if not self._cluster.manages:
            return []
        query = {"filters": filters} if filters else {}
        answer: Json = await self._cluster.ask("POST", "/networks/prune", query)
        return list(answer["NetworksDeleted"] or ())

    def _told(self) -> Iterable[AssignedNetwork]:
        return networks_of(self._cluster.told())

    def _members(self, network: str) -> Json:
        return members(self._cluster.told(), network, self._containers)


def _passes(network: AssignedNetwork, filters: Filters) -> bool:
    return (
        filters.pattern("name", network.name)
        and filters.prefix("id", network.id)
        and filters.exact("driver", network.driver)
        and filters.exact("scope", "swarm")
        and filters.labels(network.labels)
        and filters.exact("type", "custom")
        and filters.truth("dangling") is not True
    )
