"""`/swarm`, and the cluster's part of `/info` for the agent to merge.

A host that is in no cluster has no such API: there its agent answers, and init is served by
`manager.__main__`, joining by the agent.
"""

import msgspec
from aiohttp import web

from manager.api.backend import Backend
from manager.api.services import version_of
from manager.api.wire.swarm import info_json, swarm_json, warnings
from manager.control.cluster import Rotation, cluster_tls
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.errors import Unavailable
from shoal.model.spec.cluster import ClusterSpec, UnlockRequest

ALREADY = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and'
    " join another one."
)


class SwarmHandlers:
    """The handlers of the cluster itself."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/swarm", self.inspect)
        router.add("POST", "/swarm/init", self.refuse)
        router.add("POST", "/swarm/join", self.refuse)
        router.add("POST", "/swarm/leave", self.leave)
        router.add("POST", "/swarm/update", self.update)
        router.add("GET", "/swarm/unlockkey", self.unlock_key)
        router.add("POST", "/swarm/unlock", self.unlock)
        router.add("GET", "/internal/info", self.info)

    async def inspect(self, call: Call) -> web.StreamResponse:
        settings = (await self._backend.read(call)).settings
        cluster, secrets = settings.cluster(), settings.secrets()
        trust = cluster_tls(cluster)
        return call.json(
            swarm_json(cluster, trust, secrets.worker_token, secrets.manager_token)
        )

    async def refuse(self, call: Call) -> web.StreamResponse:
        raise Unavailable(ALREADY)

    async def leave(self, call: Call) -> web.StreamResponse:
        await self._backend.membership.leave(force=call.flag("force"))
        return call.empty(200)

    async def update(self, call: Call) -> web.StreamResponse:
        spec = await call.body(ClusterSpec)
        rotation = Rotation(
            worker_token=call.flag("rotateWorkerToken"),
            manager_token=call.flag("rotateManagerToken"),
            unlock_key=call.flag("rotateManagerUnlockKey"),
        )
        settings = self._backend.operations.settings
        await settings.update(spec, version_of(call), rotation)
        return call.empty(200)

    async def unlock_key(self, call: Call) -> web.StreamResponse:
        settings = (await self._backend.read(call)).settings
        return call.json(UnlockRequest(unlock_key=settings.unlock_key()))

    async def unlock(self, call: Call) -> web.StreamResponse:
        await call.body(UnlockRequest)
        self._backend.operations.settings.unlock()
        return call.empty(200)

    async def info(self, call: Call) -> web.StreamResponse:
        """`{"Swarm": ..., "Warnings": [...]}`; without a quorum `Swarm.Error` says so."""
        operations = self._backend.operations
        error = ""
        try:
            await self._backend.read(call)
        except Unavailable as refusal:
            error = str(refusal)
        cluster = operations.settings.cluster()
        nodes = list(operations.memory.nodes())
        swarm = info_json(operations.me, nodes, cluster, cluster_tls(cluster))
        if error:
            swarm |= {"Error": error}
        return call.json_bytes(
            msgspec.json.encode({"Swarm": swarm, "Warnings": warnings(nodes)})
        )
