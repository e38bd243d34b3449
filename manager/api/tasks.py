"""`/tasks`: read-only; tasks are made and ended by the deciders."""

from aiohttp import web

from manager.api.backend import Backend
from manager.api.wire.tasks import taken_ports, task_json
from manager.control.listing import TASK_FILTERS, list_tasks
from manager.control.lookup import find_task
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router


class TaskHandlers:
    """The handlers of tasks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, router: Router) -> None:
        """Put the routes into the table."""
        router.add("GET", "/tasks", self.list)
        router.add("GET", "/tasks/{id}", self.inspect)

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters(TASK_FILTERS)
        view = (await self._backend.read(call)).memory
        taken = taken_ports(view)
        return call.json([task_json(view, task, taken) for task in list_tasks(view, filters)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        view = (await self._backend.read(call)).memory
        return call.json(task_json(view, find_task(view, call.parts["id"]), taken_ports(view)))
