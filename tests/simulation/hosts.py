"""One host: containers that outlive its agent, the journal, and the real agent over a line."""

import asyncio
import random
from collections.abc import Callable, Container
from pathlib import Path
from typing import Protocol

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
    NetworkEndpoint,
    Stamp,
)
from shoal.model.errors import PermissionDenied
from shoal.model.ids import ClusterID, NetworkID, NodeID, TaskID
from shoal.model.objects import EPOCH, NodeDescription, NodeReport
from shoal.model.spec.task import Platform, Resources
from tests.simulation.clockwork import VirtualClock
from tests.simulation.network import Network

CLUSTER = ClusterID("cluster")
NO_STAMP = Entry().stamp


class _Disk(Journal):
    """A journal that is a value: it survives the agent, and costs no disk."""

    def __init__(self, saved: Callable[[Stamp, Stamp], None]) -> None:
        super().__init__(Path("/nonexistent"))
        self._kept = b""
        self._saved = saved
        self._stamp = NO_STAMP

    @override
    def load(self) -> Entry:
        return json.decode(self._kept, type=Entry) if self._kept else Entry()

    @override
    def save(self, entry: Entry) -> None:
        self._kept = json.encode(entry)
        before, self._stamp = self._stamp, entry.stamp
        self._saved(before, entry.stamp)

    @override
    def remove(self) -> None:
        self._kept = b""
        self._stamp = NO_STAMP


class _Payloads:
    """What never goes to disk: the agent of a host has it while it runs."""

    def __init__(self, witness: Callable[[Assignments], None]) -> None:
        self._witness = witness

    def update(self, told: Assignments) -> None:
        self._witness(told)


class _Wires:
    """The host's part in the network, as its kernel has it: that takes a moment, each time."""

    def __init__(self, node: NodeID, containers: FakeHost, chance: random.Random) -> None:
        self._node = node
        self._containers = containers
        self._chance = chance
        self.subnet = ""
        self.ingress = IngressSet()
        self.networks = NOTHING

    async def set_mesh(self, mesh: MeshPart) -> None:
        self.subnet = mesh.subnet
        if mesh.subnet:
            self._containers.subnet = mesh.subnet

    async def set_networks(self, told: Assignments) -> None:
        await self._moment()
        self.networks = told

    async def set_ingress(self, ingress: IngressSet) -> None:
        await self._moment()
        self.ingress = ingress

    def lose_power(self) -> None:
        """The kernel forgets."""
        self.subnet, self.ingress, self.networks = "", IngressSet(), NOTHING

    async def _moment(self) -> None:
        await asyncio.sleep(self._chance.choice((0.001, 0.01, 0.2)))

    @property
    def bare(self) -> bool:
        """Whether nothing of a cluster is left here."""
        told = self.networks
        left = (told.networks, told.endpoints, told.services, self.ingress.ports, self.subnet)
        return not any(left)

    def leads_to(self, task: TaskID, address: str, located: Container[TaskID]) -> bool:
        """Whether requests from here still go to a task: by a name, a virtual IP, a port."""
        for port in self.ingress.ports:
            if any(backend.address == address for backend in port.backends):
                return True
        for endpoint in self.networks.endpoints.values():
            if endpoint.task_id == task and endpoint.serving:
                others = self._here(endpoint.network_id, task)
                if any(one.task_id in located for one in others):
                    return True
        return False

    def _here(self, network: NetworkID, but: TaskID) -> list[NetworkEndpoint]:
        """The containers here that could ask: those that run."""
        running = self._containers.running()
        return [
            one
            for one in self.networks.endpoints.values()
            if one.network_id == network and one.task_id in running and one.task_id != but
        ]


class HostWitness(Protocol):
    """Is told of what happens on hosts; must not raise."""

    def fate(self, node: NodeID, task: TaskID, fate: Fate) -> None:
        """What became of a container."""
        ...

    def told(self, node: NodeID, told: Assignments) -> None:
        """A set that the agent acts on."""
        ...

    def applied(self, node: NodeID, before: Stamp, after: Stamp) -> None:
        """The stamp of one set in the journal, and that of the next."""
        ...


class Host:
    """A host and, while it runs, its agent."""

    def __init__(
        self,
        node: NodeID,
        size: Resources,
        network: Network,
        plan: Callable[[AssignedTask], Plan],
        witness: "HostWitness",
        chance: random.Random,
        group: asyncio.TaskGroup,
        worker: type[Worker] = Worker,
    ) -> None:
        self.node = node
        self._worker = worker
        self._network = network
        self._chance = chance
        self._group = group
        self._clock = VirtualClock()
        self._disk = _Disk(lambda before, after: self._on_saved(before, after))
        self.containers = FakeHost(
            self._clock, plan, lambda task, fate: witness.fate(node, task, fate)
        )
        self._witness = witness
        self.wires = _Wires(node, self.containers, chance)
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
        self._known: tuple[ManagerAddress, ...] = ()
        self.agent: ClusterAgent | None = None
        self.member = True
        self.on_role: Callable[[str], None] = lambda role: None
        self.powered = True

    def _on_told(self, told: Assignments) -> None:
        self._witness.told(self.node, told)

    def _on_saved(self, before: Stamp, after: Stamp) -> None:
        self._witness.applied(self.node, before, after)

    def begin(self, managers: tuple[ManagerAddress, ...] = ()) -> None:
        """The agent starts; the managers that the host joined by are kept on its disk."""
        self._known = managers or self._known
        if self._running is None and self.member:
            self._network.busy(self.node)
            self._running = self._group.create_task(
                self._run(self._known), name=f"agent {self.node}"
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
        self.wires.lose_power()
        self._network.lose_power(self.node)

    @property
    def told(self) -> Assignments:
        return self.agent.worker.assignments if self.agent is not None else NOTHING

    async def _run(self, managers: tuple[ManagerAddress, ...]) -> None:
        worker = self._worker(
            self._disk,
            self.containers,
            _Payloads(lambda told: self._on_told(told)),
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
            lambda told: self.on_role(told.role),
        )
        await agent.restore()
        self.agent = agent
        try:
            await agent.run()
        except PermissionDenied:
            await agent.leave()
            self.member = False
