"""A whole cluster in one process: real managers and agents on a simulated store and network.

`simulate(seed)` runs one history: users and misfortune side by side, then fair weather until
the cluster rests. The same seed gives the same trace in every process.
"""

import asyncio
import random
from collections.abc import Sequence

from msgspec import Struct

from agent.runtime.fake import Fate
from manager.control.networks import ingress_network
from manager.loops.loop import Row
from manager.loops.table import TABLE
from manager.store.commit import Commit
from manager.store.kv import Member
from manager.store.memory import Memory
from manager.store.simulated import Faults
from shoal.common.entropy import SeededIds
from shoal.model.assignment import Assignments, ManagerAddress, Stamp
from shoal.model.changes import Create, Group
from shoal.model.errors import Unavailable
from shoal.model.ids import NetworkID, NodeID, TaskID
from shoal.model.objects import Cluster, ManagerInfo, Network, Node
from shoal.model.states import NodeRole
from tests.simulation.checks import Acknowledged, Containers, Exclusive, Fenced, Lives
from tests.simulation.clockwork import BEGIN, VirtualLoop, run_virtually
from tests.simulation.faults import PROFILES, Misfortune
from tests.simulation.hosts import CLUSTER, Host
from tests.simulation.jobs import Jobs
from tests.simulation.managers import Manager
from tests.simulation.network import Network as Links
from tests.simulation.network import Weather
from tests.simulation.parts import REAL, Parts
from tests.simulation.rest import unrest
from tests.simulation.store import WitnessedEtcd
from tests.simulation.told import Told
from tests.simulation.truth import Truth
from tests.simulation.updates import Readiness
from tests.simulation.users import User, founding_spec, host_size, plan
from tests.simulation.withdrawal import Withdrawn

CALM_SECONDS = 3.0
TURMOIL_SECONDS = 22.0
REST_SECONDS = 180.0
LOOK_SECONDS = 2.0
SETTLE_EVERY = 10


class History(Struct, frozen=True):
    """One run: what happened, and what should not have."""

    seed: int
    trace: tuple[str, ...]
    violations: tuple[str, ...]

    def report(self) -> str:
        """For a failed test: the first violation, what led to it, how to run it again."""
        first = next(
            (i for i, line in enumerate(self.trace) if "VIOLATED" in line), len(self.trace)
        )
        shown = self.trace[max(first - 120, 0) : first + 5]
        return "\n".join(
            (
                f"seed {self.seed}: {self.violations[0]}",
                *shown,
                f"again: pytest tests/simulation --seed {self.seed}",
                f"all of it: python -m tests.simulation {self.seed}",
            )
        )


class World:
    """The stage of one run."""

    def __init__(
        self, seed: int, table: Sequence[Row], parts: Parts, group: asyncio.TaskGroup
    ) -> None:
        self._chance = random.Random(seed)
        self._table = table
        self._parts = parts
        self._group = group
        self.trace: list[str] = []
        self.truth = Truth(self.trace)
        self.expected = Acknowledged(self.truth)
        self.etcd = WitnessedEtcd(self._child(), self.truth.witness)
        self.truth.stop = self._stop_store
        self.network = Links(self._child(), group)
        self.hosts: dict[NodeID, Host] = {}
        self.managers: dict[NodeID, Manager] = {}
        self._containers = Containers(self.truth, self.hosts)
        self._withdrawn = Withdrawn(self.truth, self.hosts, self._open_session)
        self._told = Told(self.truth)
        self.network.speaks = self._told.speaks
        names = [NodeID(f"n{i}") for i in range(1, self._chance.randint(3, 6) + 1)]
        self.manager_nodes = tuple(names[: self._chance.choice((1, 3, 3))])
        self.truth.checks = [
            check.check
            for check in (
                self.expected,
                Fenced(self.truth),
                Lives(self.truth),
                Exclusive(self.truth),
                self._containers,
                self._withdrawn,
                Jobs(self.truth),
                Readiness(self.truth),
            )
        ]
        for name in names:
            self._make_host(name)

    def _make_host(self, name: NodeID) -> Host:
        host = self.hosts[name] = Host(
            name,
            host_size(self._chance),
            self.network,
            plan,
            self,
            self._child(),
            self._group,
            self._parts.worker,
        )
        host.on_role = lambda role: self._told_role(name, role)
        return host

    def _open_session(self, node: NodeID) -> str:
        """The session that its manager has open, as the store knows it; empty for none."""
        found = self.truth.view.node(node)
        if found is None or found.session is None:
            return ""
        manager = self.managers.get(found.session.manager)
        session = manager.sessions.of(node) if manager is not None else None
        return session.id if session is not None else ""

    # -- what hosts tell

    def fate(self, node: NodeID, task: TaskID, fate: Fate) -> None:
        self._withdrawn.fate(node, task, fate)
        self._containers.fate(node, task, fate)

    def told(self, node: NodeID, told: Assignments) -> None:
        self._told.told(node, told)

    def applied(self, node: NodeID, before: Stamp, after: Stamp) -> None:
        self._told.applied(node, before, after)

    def _told_role(self, node: NodeID, role: str) -> None:
        """A manager that is demoted ends: its host's agent is told that it is a worker."""
        found = self.truth.view.node(node)
        if role != NodeRole.WORKER.value or node not in self.manager_nodes:
            return
        if found is not None and found.manager is not None:
            return
        self.truth.say(f"manager {node} ends: it is demoted")
        self.manager_nodes = tuple(one for one in self.manager_nodes if one != node)
        self.kill_manager(node)
        self._count_members()

    def _child(self) -> random.Random:
        return random.Random(self._chance.getrandbits(64))

    def _stop_store(self) -> None:
        self.etcd.quorum = False

    def _stand_still(self) -> None:
        """Something asks again and again at one instant."""
        self.truth.object_to("time stands still")
        self._stop_store()

    # -- a history

    async def live(self) -> None:
        """Found, go through turmoil, come to rest; ends early at the first violation."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.on_still = self._stand_still
        await self._found()
        for node in self.manager_nodes:
            self.start_manager(node)
        for host in self.hosts.values():
            host.begin(self._addresses())
        await asyncio.sleep(CALM_SECONDS)
        await self._turmoil()
        self._heal()
        await self._come_to_rest()

    async def _turmoil(self) -> None:
        profile = self._chance.choice(PROFILES)
        self.truth.say(f"turmoil: {', '.join(profile) or 'users only'}")
        users = [self.user() for _ in range(2)]
        misfortunes = [Misfortune(self, self._child(), profile) for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            acting = [group.create_task(user.run()) for user in users]
            acting.append(group.create_task(self._join()))
            acting += [group.create_task(one.run()) for one in misfortunes]
            try:
                async with asyncio.timeout(TURMOIL_SECONDS):
                    await self.truth.violated.wait()
            except TimeoutError:
                self.truth.say("turmoil is over")
            for task in acting:
                task.cancel()

    async def _join(self) -> None:
        """A host joins in the middle of it, in some histories."""
        await asyncio.sleep(self._chance.uniform(2.0, 2 * TURMOIL_SECONDS))
        name = NodeID(f"n{len(self.hosts) + 1}")
        self.truth.say(f"{name} joins")
        await self._create([self._node(name)], "joined")
        self._make_host(name).begin(self._addresses())

    def user(self) -> User:
        return User(
            self._child(), self.truth, self.expected, lambda: list(self.managers.values())
        )

    def _heal(self) -> None:
        """The last fault is over."""
        self.truth.say("all faults end")
        self.etcd.faults = Faults()
        if not self.etcd.quorum:
            self.etcd.quorum = True
        self.network.change_weather(Weather())
        self.network.mend_all()
        for manager in self.managers.values():
            manager.kv.reachable = True
            manager.kv.lag = (0.0, 0.0)
        for node in self.hosts:
            self.power_on(node)
            self.start_manager(node)

    async def _come_to_rest(self) -> None:
        user = self.user()
        restless: list[str] = []
        for look in range(int(REST_SECONDS / LOOK_SECONDS)):
            await asyncio.sleep(LOOK_SECONDS)
            if self.truth.violations:
                return
            if look % SETTLE_EVERY == 1:
                manager = self._chance.choice(list(self.managers.values()))
                await user.settle(manager, patient=look == 1)
            elif look > 1:
                restless = unrest(self)
                if not restless:
                    self.truth.say("at rest")
                    return
        self.truth.object_to("no rest: " + "; ".join(restless[:9]))

    # -- processes and hosts

    def _addresses(self) -> tuple[ManagerAddress, ...]:
        return tuple(ManagerAddress(node_id=n, address=n) for n in self.manager_nodes)

    def start_manager(self, node: NodeID) -> None:
        if (
            node in self.manager_nodes
            and node not in self.managers
            and self.hosts[node].powered
        ):
            self.managers[node] = Manager(
                node,
                self.etcd.client_of(node),
                self.network,
                self._table,
                self._child(),
                self._group,
                self._parts,
            )

    def kill_manager(self, node: NodeID) -> None:
        found = self.managers.pop(node, None)
        if found is not None:
            found.kill()

    def lose_power(self, node: NodeID) -> None:
        self.hosts[node].lose_power()
        self.kill_manager(node)
        self._count_members()

    def power_on(self, node: NodeID) -> None:
        host = self.hosts[node]
        host.powered = True
        host.begin(self._addresses())
        self.start_manager(node)
        self._count_members()

    def _count_members(self) -> None:
        """The store needs most of the managers' hosts."""
        up = sum(1 for node in self.manager_nodes if self.hosts[node].powered)
        there = up > len(self.manager_nodes) // 2
        if there != self.etcd.quorum:
            self.truth.say("quorum" if there else "no quorum")
            self.etcd.quorum = there

    # -- the beginning

    async def _found(self) -> None:
        nodes = [self._node(node) for node in self.hosts]
        cluster = Cluster(id=CLUSTER, created_at=BEGIN, updated_at=BEGIN)
        ingress = ingress_network(NetworkID("ingress"), cluster, BEGIN)
        things: tuple[Cluster | Node | Network, ...] = (cluster, ingress, *nodes)
        self.etcd.members = {
            number: Member(number, node, (f"http://{node}",), (f"unix://{node}",))
            for number, node in enumerate(self.manager_nodes, 1)
        }
        await self._create(things, "founded")

    async def _create(self, things: Sequence[Cluster | Node | Network], why: str) -> None:
        """Write them, as those do who found clusters and let hosts join."""
        founder, ids = self.etcd.client_of("founder"), SeededIds(len(self.hosts))
        group = Group(tuple(Create(thing) for thing in things), why)
        while self.truth.view.find(things[0].id) is None:
            try:
                await Commit(founder, Memory(), ids).commit([group])
            except Unavailable:
                await asyncio.sleep(0.5)

    def _node(self, node: NodeID) -> Node:
        manages = node in self.manager_nodes
        role = NodeRole.MANAGER if manages else NodeRole.WORKER
        return Node(
            id=node,
            created_at=BEGIN,
            updated_at=BEGIN,
            spec=founding_spec(self._chance, role),
            role=role,
            manager=ManagerInfo(addr=node, member=node) if manages else None,
        )


class _Over(Exception):
    """Ends the world's group."""


async def _end() -> None:
    raise _Over


def simulate(seed: int, table: Sequence[Row] = TABLE, parts: Parts = REAL) -> History:
    """One whole run of a seed."""
    return run_virtually(_simulate(seed, table, parts))


async def _simulate(seed: int, table: Sequence[Row], parts: Parts) -> History:
    world: World | None = None
    try:
        async with asyncio.TaskGroup() as group:
            world = World(seed, table, parts, group)
            await world.live()
            group.create_task(_end())
    except* _Over:
        pass
    assert world is not None
    return History(seed, tuple(world.trace), tuple(world.truth.violations))
