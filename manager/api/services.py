"""`/services`: thin handlers over `manager.control.services`."""

from aiohttp import web

from manager.api.backend import Backend
from manager.api.wire.services import service_json
from manager.control.listing import SERVICE_FILTERS, count_tasks, list_services
from manager.control.lookup import find_service
from manager.control.services import ServiceUpdate
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.model.errors import InvalidArgument
from shoal.model.numbers import whole
from shoal.model.spec.service import ServiceSpec
from shoal.model.validate.task import task_warnings

_AUTH = "X-Registry-Auth"


class ServiceHandlers:
    """The handlers of services."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/services", self.list)
        router.add("POST", "/services/create", self.create)
        router.add("GET", "/services/{id}", self.inspect)
        router.add("POST", "/services/{id}/update", self.update)
        router.add("DELETE", "/services/{id}", self.remove)

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters(SERVICE_FILTERS)
        counted = call.flag("status")
        view = (await self._backend.read(call)).memory
        return call.json(
            [
                service_json(one, counts=count_tasks(view, one) if counted else None)
                for one in list_services(view, filters)
            ]
        )

    async def inspect(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        service = find_service(view, call.parts["id"])
        return call.json(service_json(service, defaults=call.flag("insertDefaults")))

    async def create(self, call: Call) -> web.StreamResponse:
        spec = await call.body(ServiceSpec)
        auth = call.request.headers.get(_AUTH, "")
        identity = await self._backend.operations.services.create(spec, auth)
        return call.json({"ID": identity, "Warnings": _warnings(spec)}, 201)

    async def update(self, call: Call) -> web.StreamResponse:
        spec = await call.body(ServiceSpec)
        request = ServiceUpdate(
            spec=spec,
            version=version_of(call),
            registry_auth=call.request.headers.get(_AUTH, ""),
            registry_auth_from=call.text("registryAuthFrom"),
            rollback=call.text("rollback"),
        )
        await self._backend.operations.services.update(call.parts["id"], request)
        return call.json({"Warnings": _warnings(spec)})

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._backend.operations.services.remove(call.parts["id"])
        return call.empty(200)


def version_of(call: Call) -> int:
    """The version that every update must name."""
    text = call.text("version")
    number = whole(text)
    if number is None:
        raise InvalidArgument(
            f"invalid version '{text}': an update must name the version it read",
            field="version",
        )
    return number


def _warnings(spec: ServiceSpec) -> list[str] | None:
    """What is accepted and has no effect. A rollback sends the spec that it leaves."""
    return list(task_warnings(spec.task_template)) or None
