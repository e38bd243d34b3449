"""A manager's dispatcher on a simulated store, over real gRPC and mutual TLS."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from manager.ca.authority import ClusterAuthority, Subject
from manager.control.attachments import Attachments
from manager.control.writing import Writer
from manager.dispatcher.assignments import Confidences
from manager.dispatcher.draining import Draining
from manager.dispatcher.networks import NetworkParts
from manager.dispatcher.presence import Presence
from manager.dispatcher.service import ACCESS, Dispatcher
from manager.dispatcher.sessions import Sessions
from manager.dispatcher.status import StatusWriter
from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.feed import Feed
from manager.store.memory import Memory
from manager.store.simulated import SimulatedEtcd, SimulatedKV
from proto.dispatcher_pb2_grpc import add_DispatcherServicer_to_server
from shoal.common import rpc
from shoal.common.certificates import Role, new_csr_pem, new_key_pem
from shoal.common.clock import SystemClock
from shoal.common.entropy import SystemIds
from shoal.common.identity import CurrentIdentity, Identity, identity_of
from shoal.common.supervise import stoppable_group
from shoal.model.assignment import ManagerAddress
from shoal.model.changes import Change, Create, Delete, Group, Update
from shoal.model.ids import ClusterID, NodeID, ServiceID, TaskID
from shoal.model.objects import Cluster, ManagerInfo, Node, Service, Task, TaskStatus
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import ContainerSpec, TaskSpec
from shoal.model.states import NodeRole, TaskState

CLOCK = SystemClock()
DEADLINE = 10.0


async def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Return as soon as something holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of several parts, not one event
            await asyncio.sleep(0.01)


class Lab:
    """One cluster: a store, an authority, and managers that can be started and ended."""

    def __init__(self) -> None:
        self.etcd = SimulatedEtcd(random.Random(1))
        self.ids = SystemIds()
        self.cluster = ClusterID(self.ids.new())
        self.authority = ClusterAuthority.create(CLOCK.now() - timedelta(hours=1))
        self.memory = Memory()
        self.nodes = 0
        self.stores: dict[str, SimulatedKV] = {}
        self.service = ServiceID(self.ids.new())

    def identity(self, node: NodeID, role: Role) -> Identity:
        key = new_key_pem()
        subject = Subject(
            node_id=node, role=role, cluster_id=self.cluster, addresses=("127.0.0.1",)
        )
        return identity_of(
            key_pem=key,
            certificate_pem=self.authority.sign(new_csr_pem(key), subject, CLOCK.now()),
            roots_pem=self.authority.roots_pem,
        )

    async def commit(self, *changes: Change) -> None:
        committer = Commit(self.etcd.client(), self.memory, SystemIds())
        outcome = await committer.commit([Group(tuple(changes))])
        assert not outcome.clashed, outcome
        await self.memory.reached(outcome.revision)

    async def begin(self) -> None:
        spec = ServiceSpec(
            name="web",
            task_template=TaskSpec(container_spec=ContainerSpec(image="busybox", args=("x",))),
        )
        await self.commit(
            Create(Cluster(id=self.cluster)), Create(Service(id=self.service, spec=spec))
        )

    async def add_node(self, node: NodeID, manager: str = "") -> None:
        info = ManagerInfo(addr=manager) if manager else None
        role = NodeRole.MANAGER if manager else NodeRole.WORKER
        self.nodes += 1
        made = Node(
            id=node,
            role=role,
            spec=NodeSpec(role=role.value),
            manager=info,
            subnet=f"10.128.{self.nodes}.0/24",
            addr="127.0.0.1",
        )
        await self.commit(Create(made))

    async def add_task(self, node: NodeID, **fields: Any) -> TaskID:
        task = TaskID(self.ids.new())
        service = self.memory.service(self.service)
        assert service is not None
        await self.commit(
            Create(
                Task(
                    id=task,
                    service_id=self.service,
                    spec_version=1,
                    service_spec=service.spec,
                    slot=1,
                    node_id=node,
                    status=TaskStatus(state=TaskState.ASSIGNED),
                    **fields,
                )
            )
        )
        return task

    async def desire(self, task: TaskID, state: TaskState) -> None:
        present = self.memory.task(task)
        assert present is not None
        await self.commit(Update(replace(present, desired_state=state)))

    async def delete(self, task: TaskID) -> None:
        present = self.memory.task(task)
        assert present is not None
        await self.commit(Delete(present))

    def status(self, task: TaskID) -> TaskStatus:
        present = self.memory.task(task)
        return present.status if present is not None else TaskStatus()

    async def feed(self, ready: asyncio.Event) -> None:
        """Memory follows the store until cancelled."""
        feed = Feed(self.etcd.client(), self.memory, random.Random(2))
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.run(), name="feed")
            await feed.ready()
            ready.set()

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[tuple[ManagerAddress, Sessions]]:
        """A dispatcher on a port of its own."""
        node = NodeID(self.ids.new())
        current = CurrentIdentity(self.identity(node, Role.MANAGER))
        store = self.etcd.client()
        presence = Presence(store, random.Random(3))
        barrier = Barrier(store, self.memory.reached)
        sessions = Sessions(store, self.memory, barrier, presence, node, CLOCK, self.ids)
        statuses = StatusWriter(store, self.memory)
        parts = NetworkParts()
        draining = Draining(store, self.memory, sessions, presence, parts, node)
        writer = Writer(store, self.memory, barrier, self.ids)
        attachments = Attachments(writer, self.memory, CLOCK)
        dispatcher = Dispatcher(
            self.memory,
            sessions,
            statuses,
            lambda: Confidences({}, lambda secret: b""),
            draining,
            parts,
            attachments,
        )
        server = rpc.server(current, ACCESS, CLOCK)
        add_DispatcherServicer_to_server(dispatcher, server)
        port = rpc.bind(server, "127.0.0.1:0", current)
        address = f"127.0.0.1:{port}"
        await self.add_node(node, address)
        self.stores[address] = store
        await server.start()
        try:
            async with stoppable_group() as group:
                group.start(presence.run(), name="presence")
                group.start(statuses.run(), name="statuses")
                group.start(draining.run(), name="draining")
                group.start(sessions.run(), name="sessions")
                await until(lambda: presence.lease is not None)
                yield ManagerAddress(node_id=node, address=address), sessions
                group.stop()
        finally:
            sessions.end_all()
            await server.stop(0)
