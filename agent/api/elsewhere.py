"""Containers and execs that this host does not have: a manager finds the host that has them.

The route table of this host's containers. A path that names one is answered here if it is here,
and otherwise passed on to the manager of this host, if there is one; a request that came from a
manager already never is.
"""

from collections.abc import Callable

from aiohttp import web
from typing_extensions import override

from agent.api.cluster import Cluster
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.hop import HOP
from shoal.common.engine_http.router import Handler, Router
from shoal.model.errors import NotFound

Find = Callable[[str], object]

_CONTAINER = "/containers/{id}"
_EXEC = "/exec/{id}"


class ContainerRouter(Router):
    """A table whose routes of containers and execs reach all hosts from a manager.

    `find_container` and `find_exec` raise `NotFound` for what is not on this host.
    """

    def __init__(self, find_container: Find, find_exec: Find, cluster: Cluster) -> None:
        super().__init__()
        self._find_container = find_container
        self._find_exec = find_exec
        self._cluster = cluster

    @override
    def add(self, method: str, pattern: str, handler: Handler, *, stream: bool = False) -> None:
        if pattern.startswith(_CONTAINER):
            handler = self._here_or_elsewhere(self._find_container, handler)
        elif pattern.startswith(_EXEC):
            handler = self._here_or_elsewhere(self._find_exec, handler)
        super().add(method, pattern, handler, stream=stream)

    def _here_or_elsewhere(self, find: Find, handler: Handler) -> Handler:
        async def serve(call: Call) -> web.StreamResponse:
            try:
                find(call.parts["id"])
            except NotFound as missing:
                if HOP in call.request.headers:
                    raise
                return await self._cluster.pass_on(call, missing)
            return await handler(call)

        return serve
