"""`/networks/x/connect` and `/disconnect`: containers of this host on and off networks."""

import msgspec
from aiohttp import web

from agent.engine.engine import Engine
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.container import EndpointSettings, EngineWire
from shoal.model.errors import InvalidArgument, NotFound


class ConnectRequest(EngineWire, frozen=True, kw_only=True):
    """The body of `POST /networks/x/connect`."""

    container: str = ""
    endpoint_config: EndpointSettings = msgspec.field(default_factory=EndpointSettings)


class DisconnectRequest(EngineWire, frozen=True, kw_only=True):
    """The body of `POST /networks/x/disconnect`."""

    container: str = ""
    force: bool = False


class Connecting:
    """Handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_routes(self, router: Router) -> None:
        router.add("POST", "/networks/{id}/connect", self.connect)
        router.add("POST", "/networks/{id}/disconnect", self.disconnect)

    async def connect(self, call: Call) -> web.StreamResponse:
        asked = await call.body(ConnectRequest)
        container = self._engine.find(_named(asked.container))
        await self._engine.places.connect(container, call.parts["id"], asked.endpoint_config)
        return call.empty(200)

    async def disconnect(self, call: Call) -> web.StreamResponse:
        asked = await call.body(DisconnectRequest)
        try:
            container = self._engine.find(_named(asked.container))
        except NotFound:
            if asked.force:  # what is no more is on no network
                return call.empty(200)
            raise
        await self._engine.places.disconnect(container, call.parts["id"])
        return call.empty(200)


def _named(container: str) -> str:
    if not container:
        raise InvalidArgument(
            "Container: a container's name or id is needed", field="Container"
        )
    return container
