"""`/secrets` and `/configs`: thin handlers over `manager.control.payloads`."""

from aiohttp import web

from manager.api.backend import Backend
from manager.api.services import version_of
from manager.api.wire.payloads import config_json, secret_json
from manager.control.listing import (
    CONFIG_FILTERS,
    SECRET_FILTERS,
    list_configs,
    list_secrets,
)
from manager.control.lookup import find_config, find_secret
from manager.control.payloads import PayloadSpec
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router


class PayloadHandlers:
    """The handlers of secrets and configs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/secrets", self.list_secrets)
        router.add("POST", "/secrets/create", self.create_secret)
        router.add("GET", "/secrets/{id}", self.inspect_secret)
        router.add("DELETE", "/secrets/{id}", self.remove_secret)
        router.add("POST", "/secrets/{id}/update", self.update_secret)
        router.add("GET", "/configs", self.list_configs)
        router.add("POST", "/configs/create", self.create_config)
        router.add("GET", "/configs/{id}", self.inspect_config)
        router.add("DELETE", "/configs/{id}", self.remove_config)
        router.add("POST", "/configs/{id}/update", self.update_config)

    async def list_secrets(self, call: Call) -> web.StreamResponse:
        filters = call.filters(SECRET_FILTERS)
        view = (await self._backend.read(call)).memory
        return call.json([secret_json(one) for one in list_secrets(view, filters)])

    async def inspect_secret(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        return call.json(secret_json(find_secret(view, call.parts["id"])))

    async def create_secret(self, call: Call) -> web.StreamResponse:
        spec = await call.body(PayloadSpec)
        identity = await self._backend.operations.payloads.create_secret(spec)
        return call.json({"ID": identity}, 201)

    async def update_secret(self, call: Call) -> web.StreamResponse:
        spec = await call.body(PayloadSpec)
        payloads = self._backend.operations.payloads
        await payloads.update_secret(call.parts["id"], spec, version_of(call))
        return call.empty(200)

    async def remove_secret(self, call: Call) -> web.StreamResponse:
        await self._backend.operations.payloads.remove_secret(call.parts["id"])
        return call.empty(204)

    async def list_configs(self, call: Call) -> web.StreamResponse:
        filters = call.filters(CONFIG_FILTERS)
        view = (await self._backend.read(call)).memory
        return call.json([config_json(one) for one in list_configs(view, filters)])

    async def inspect_config(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        return call.json(config_json(find_config(view, call.parts["id"])))

    async def create_config(self, call: Call) -> web.StreamResponse:
        spec = await call.body(PayloadSpec)
        identity = await self._backend.operations.payloads.create_config(spec)
        return call.json({"ID": identity}, 201)

    async def update_config(self, call: Call) -> web.StreamResponse:
        spec = await call.body(PayloadSpec)
        payloads = self._backend.operations.payloads
        await payloads.update_config(call.parts["id"], spec, version_of(call))
        return call.empty(200)

    async def remove_config(self, call: Call) -> web.StreamResponse:
        await self._backend.operations.payloads.remove_config(call.parts["id"])
        return call.empty(204)
