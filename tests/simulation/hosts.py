"""One host: containers that outlive its agent, the journal, and the real agent over a line."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from msgspec import json
from typing_extensions import override

from agent.assignments import NOTHING
from agent.journal import Entry, Journal
from agent.membership import ClusterAgent
from agent.report import Reports
from agent.runtime.fake import FakeHost, Fate, Plan
from agent.worker import Worker
from shoal.common.certificates import Role
from shoal.common.identity import CurrentIdentity, Identity
from shoal.model.assignment import (
    AssignedTask,
    Assignments,
    IngressSet,
    ManagerAddress,
    MeshPart,
)
from shoal.model.errors import PermissionDenied
from shoal.model.ids import ClusterID, NodeID, TaskID
from shoal.model.objects import EPOCH, NodeDescription, NodeReport
from shoal.model.spec.task import Platform, Resources
from tests.simulation.clockwork import VirtualClock
from tests.simulation.network import Network

CLUSTER = ClusterID("cluster")


class _Disk(Journal):
    """A journal that is a value: it survives the agent, and costs no disk."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))
        self._kept = b""

    @override
    def load(self) -> Entry:
        return json.decode(self._kept, type=Entry) if self._kept else Entry()

    @override
    def save(self, entry: Entry) -> None:
        self._kept = json.encode(entry)

    @override
    def remove(self) -> None:
        self._kept = b""


class _Payloads:
    def update(self, told: Assignments) -> None:
        """Nothing secret is assigned yet."""


class _Wires:
    """The host's part in the mesh: its subnet is what containers get addresses of."""

    def __init__(self, containers: FakeHost) -> None:
        self._containers = containers
        self.ingress = IngressSet()

    async def set_mesh(self, mesh: MeshPart) -> None:
        if mesh.subnet:
            self._containers.subnet = mesh.subnet

    async def set_networks(self, told: Assignments) -> None:
        """No service of the script has networks."""

    async def set_ingress(self, ingress: IngressSet) -> None:
        self.ingress = ingress


class Host:
    """A host and, while it runs, its agent."""

    def __init__(
        self,
        node: NodeID,
        size: Resources,
        network: Network,
        plan: Callable[[AssignedTask], Plan],
        witness: Callable[[NodeID, TaskID, Fate], None],
        chance: random.Random,
        group: asyncio.TaskGroup,
    ) -> None:
        self.node = node
        self._network = network
        self._chance = chance
        self._group = group
        self._clock = VirtualClock()
        self._disk = _Disk()
        self.containers = FakeHost(
            self._clock, plan, lambda task, fate: witness(node, task, fate)
        )
        self.wires = _Wires(self.containers)
        self._report = NodeReport(
            description=NodeDescription(
                hostname=node,
                platform=Platform(architecture="x86_64", os="linux"),
                resources=size,
            ),
            addr=node,
        )
        self._identity = CurrentIdentity(
            Identity(
                node_id=node,
                role=Role.WORKER,
                cluster_id=CLUSTER,
                key_pem=b"",
                certificate_pem=b"",
                roots_pem=b"",
                not_before=EPOCH,
                not_after=EPOCH,
            )
        )
        self._running: asyncio.Task[None] | None = None
        self.agent: ClusterAgent | None = None
        self.member = True
        self.powered = True

    def begin(self, managers: tuple[ManagerAddress, ...] = ()) -> None:
        """The agent starts."""
        if self._running is None and self.member:
            self._network.busy(self.node)
            self._running = self._group.create_task(
                self._run(managers), name=f"agent {self.node}"
            )

    def kill(self) -> None:
        """The agent dies; its containers do not."""
        if self._running is not None:
            self._running.cancel()
        self._running, self.agent = None, None
        self._network.idle(self.node)

    def lose_power(self) -> None:
        """Everything on the host is gone but its disk."""
        self.powered = False
        self.kill()
        self.containers.lose_power()
        self._network.lose_power(self.node)

    @property
    def told(self) -> Assignments:
        return self.agent.worker.assignments if self.agent is not None else NOTHING

    async def _run(self, managers: tuple[ManagerAddress, ...]) -> None:
        worker = Worker(
            self._disk,
            self.containers,
            _Payloads(),
            self.wires,
            Reports(),
            self._clock,
            self._chance,
        )
        agent = ClusterAgent(
            self._identity,
            worker,
            lambda address, _, patience: self._network.dialled(self.node, address, patience),
            managers,
            lambda: self._report,
            self._chance,
        )
        await agent.restore()
        self.agent = agent
        try:
            await agent.run()
        except PermissionDenied:
            await agent.leave()
            self.member = False
