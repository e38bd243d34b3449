"""The route table of the cluster half: everything the agent of this host pipes to its manager.

Serve it with `shoal.common.engine_http.server.EngineServer`, which brings versions and errors,
on a socket that only the host's own processes open.
"""

from manager.api.backend import Backend
from manager.api.containers import ContainerHandlers
from manager.api.events import EventHandlers
from manager.api.logs import LogHandlers
from manager.api.networks import NetworkHandlers
from manager.api.nodes import NodeHandlers
from manager.api.payloads import PayloadHandlers
from manager.api.services import ServiceHandlers
from manager.api.swarm import SwarmHandlers
from manager.api.tasks import TaskHandlers
from shoal.common.engine_http.router import Router


def cluster_api(backend: Backend) -> Router:
    """All routes. Made once a manager: it begins to remember events here."""
    router = Router()
    for handlers in (
        LogHandlers(backend),
        ServiceHandlers(backend),
        TaskHandlers(backend),
        NodeHandlers(backend),
        SwarmHandlers(backend),
        PayloadHandlers(backend),
        NetworkHandlers(backend),
        EventHandlers(backend),
        ContainerHandlers(backend),
    ):
        handlers.add_to(router)
    return router
