"""A manager's REST API on a simulated store, without deciders and agents."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession, UnixConnector

from manager.api.app import cluster_api
from manager.api.backend import Backend, Line
from manager.ca.authority import ClusterAuthority
from manager.ca.sealed import ClusterSecrets, seal_secrets
from manager.ca.tokens import new_tokens
from manager.control.networks import ingress_network
from manager.control.operations import Chance, Operations
from manager.store import keys
from manager.store.barrier import Barrier
from manager.store.codec import encode
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.kv import Put
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from manager.store.simulated import SimulatedEtcd, SimulatedKV
from shoal.common.clock import SystemClock
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.common.entropy import SeededIds, SystemIds, random_bytes
from shoal.model.changes import Change, Create, Group
from shoal.model.errors import Unavailable
from shoal.model.ids import ClusterID, NetworkID, NodeID
from shoal.model.objects import (
    Cluster,
    EngineDescription,
    ManagerInfo,
    Node,
    NodeDescription,
    NodeReport,
    Object,
    StoredObject,
)
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.task import Platform, Resources
from shoal.model.states import NodeRole, NodeState

ME = NodeID("m1" + "0" * 23)
MANAGER2 = NodeID("m2" + "0" * 23)
WORKER = NodeID("w1" + "0" * 23)
CLUSTER = ClusterID("c" * 25)
HOSTNAMES = {ME: "m1", MANAGER2: "m2", WORKER: "w1"}


class Doors:
    """Agents behind plain unix sockets, by node."""

    def __init__(self) -> None:
        self.sockets: dict[NodeID, Path] = {}

    async def open(self, node: NodeID) -> Line:
        if node not in self.sockets:
            raise Unavailable(f"node {node} does not answer")
        return Line(*await asyncio.open_unix_connection(self.sockets[node]))


class Leaving:
    """Remembers that the host was told to leave."""

    def __init__(self) -> None:
        self.forced: list[bool] = []

    async def leave(self, *, force: bool) -> None:
        self.forced.append(force)


class Cell:
    """One manager and its store."""

    def __init__(self, patience: float) -> None:
        self.etcd = SimulatedEtcd(random.Random(1))
        self.kv: SimulatedKV = self.etcd.client()
        self.memory = Memory()
        self.barrier = Barrier(self.kv, self.memory.reached, patience=patience)
        self.clock = SystemClock()
        self.doors = Doors()
        self.membership = Leaving()
        self.sealer = Sealer(b"k" * 32)
        self.operations = Operations(
            ME,
            self.kv,
            self.memory,
            self.barrier,
            self.sealer,
            self.clock,
            Chance(SeededIds(7), random_bytes, random.Random(7)),
        )
        self.feed = Feed(self.kv, self.memory, random.Random(1))
        self.backend = Backend(
            self.operations, lambda: ME, self.doors, self.membership, self.clock
        )

    def router(self) -> Router:
        return cluster_api(self.backend)

    async def write(self, *changes: Change) -> None:
        """What the leader would write."""
        outcome = await Commit(self.kv, self.memory, SystemIds()).commit([Group(changes)])
        assert not outcome.clashed
        await self.memory.reached(outcome.revision)

    async def create(self, *things: StoredObject) -> None:
        await self.write(*(Create(thing) for thing in things))


@asynccontextmanager
async def cell(*, patience: float = 3.0) -> AsyncIterator[Cell]:
    """A cluster of two managers and a worker, founded, its memory fed."""
    made = Cell(patience)
    await _found(made)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(made.feed.run())
        await made.feed.ready()
        yield made
        feeding.cancel()


async def _found(made: Cell) -> None:
    now = made.clock.now()
    authority = ClusterAuthority.create(now)
    tokens = new_tokens(authority.root, random_bytes)
    secrets = ClusterSecrets(
        ca_key=authority.key_pem,
        etcd_ca_key=b"",
        worker_token=str(tokens.worker),
        manager_token=str(tokens.manager),
    )
    cluster = Cluster(
        id=CLUSTER,
        created_at=now,
        updated_at=now,
        root_ca=authority.roots_pem.decode(),
        sealed=seal_secrets(made.sealer, CLUSTER, secrets),
    )
    nodes = [node_of(ME, manager=True), node_of(MANAGER2, manager=True), node_of(WORKER)]
    ingress = ingress_network(NetworkID("i" * 25), cluster, now)
    things: Sequence[Object] = [cluster, ingress, *nodes]
    await Commit(made.kv, Memory(), SystemIds()).commit(
        [Group(tuple(Create(thing) for thing in things))]  # type: ignore[arg-type]
    )
    for node in nodes:
        await describe(made, node.id)


def node_of(node: NodeID, *, manager: bool = False) -> Node:
    role = NodeRole.MANAGER if manager else NodeRole.WORKER
    now = SystemClock().now()
    return Node(
        id=node,
        created_at=now,
        updated_at=now,
        spec=NodeSpec(role=role.value),
        role=role,
        state=NodeState.READY,
        manager=ManagerInfo(addr="10.0.0.1:2377", member="1") if manager else None,
    )


async def describe(made: Cell, node: NodeID) -> None:
    """What the node's agent would report."""
    report = NodeReport(
        description=NodeDescription(
            hostname=HOSTNAMES[node],
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=2_000_000_000, memory_bytes=4 << 30),
            engine=EngineDescription(engine_version="28.2.2"),
        ),
        addr="10.0.0.1",
    )
    await made.kv.txn((), (Put(keys.describe_key(node).encode(), encode(report)),))


class Client:
    """Asks the API as a client of a unix socket."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and decoded body."""
        sent = dict(headers or {})
        data = None
        if body is not None:
            encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
            data = io.BytesIO(encoded)
            sent["Content-Type"] = "application/json"
        async with self.session.request(
            method, f"http://docker{path}", data=data, headers=sent
        ) as answer:
            raw = await answer.read()
        return answer.status, msgspec.json.decode(raw) if raw.strip() else None

    async def get(self, path: str) -> Any:
        status, body = await self.ask("GET", path)
        assert status == 200, body
        return body


@asynccontextmanager
async def serving(
    directory: Path, *, patience: float = 3.0
) -> AsyncIterator[tuple[Cell, Client]]:
    """A cell, served; and its client."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(cell(patience=patience))
        server = await stack.enter_async_context(EngineServer(made.router()))
        path = directory / "manager.sock"
        await server.serve_unix(path)
        session = ClientSession(connector=UnixConnector(str(path)))
        yield made, Client(await stack.enter_async_context(session))
