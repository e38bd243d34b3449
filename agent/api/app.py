"""The route table of the agent's API, put together."""

from typing import Protocol

from agent.api import cluster, unbuilt
from agent.api.archive import Archive
from agent.api.cluster import Asked, Cluster
from agent.api.cluster_networks import ClusterNetworks
from agent.api.connecting import Connecting
from agent.api.containers import Containers
from agent.api.elsewhere import ContainerRouter
from agent.api.events import Events
from agent.api.images import Images
from agent.api.interactive import Interactive
from agent.api.local_networks import LocalNetworks
from agent.api.networks import Networks
from agent.api.system import Host, System
from agent.api.volumes import Volumes
from agent.engine.engine import Engine
from agent.images.store import ImageStore
from shoal.common.clock import Clock
from shoal.common.engine_http.router import Router


class ClusterHalf(Cluster, Asked, Protocol):
    """All that handlers ask of the cluster; `agent.api.cluster.Gateway` is it."""


def build(
    engine: Engine,
    images: ImageStore,
    of_cluster: ClusterHalf,
    host: Host,
    subnet: tuple[str, str],
    clock: Clock,
) -> Router:
    """All routes; `subnet` is that of the network `bridge`, and its gateway."""
    router = ContainerRouter(engine.find, engine.execs.get, of_cluster)
    System(engine, images, of_cluster, host, clock).add_routes(router)
    Events(engine.events, of_cluster, clock).add_routes(router)
    Interactive(engine, clock).add_routes(router)
    unbuilt.add_routes(router)
    Archive(engine).add_routes(router)
    Containers(engine).add_routes(router)
    Images(images, engine, clock).add_routes(router)
    Volumes(engine, clock).add_routes(router)
    networks = ClusterNetworks(of_cluster, engine.registry)
    local = LocalNetworks(engine.networks, engine.registry, *subnet, clock)
    Networks(local, networks).add_routes(router)
    Connecting(engine).add_routes(router)
    cluster.add_routes(router, of_cluster)
    return router
