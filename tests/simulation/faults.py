"""What goes wrong: to the store, to the network, to processes and hosts; each for a while."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from manager.store.keys import LEADER_KEY
from manager.store.simulated import Faults
from shoal.model.ids import NodeID
from tests.simulation.hosts import Host
from tests.simulation.managers import Manager
from tests.simulation.network import Network, Weather
from tests.simulation.store import WitnessedEtcd
from tests.simulation.truth import Truth


class Stage(Protocol):
    """What faults act on."""

    truth: Truth
    etcd: WitnessedEtcd
    network: Network
    hosts: dict[NodeID, Host]
    managers: dict[NodeID, Manager]
    manager_nodes: tuple[NodeID, ...]

    def start_manager(self, node: NodeID) -> None: ...

    def kill_manager(self, node: NodeID) -> None: ...

    def lose_power(self, node: NodeID) -> None: ...

    def power_on(self, node: NodeID) -> None: ...


STORE = (
    "store weather",
    "compaction",
    "lease",
    "slow watch",
    "no quorum",
    "manager cut off from the store",
)
NETWORK = ("weather", "partition", "agent cut off")
PROCESSES = ("manager", "leader", "agent", "host")
PROFILES: tuple[tuple[str, ...], ...] = (
    (),
    STORE,
    NETWORK,
    PROCESSES,
    (*STORE, *NETWORK, *PROCESSES),
    (*STORE, *NETWORK, *PROCESSES),
)


class Misfortune:
    """Does one thing after another to the stage, of those that the run's profile has."""

    def __init__(self, stage: Stage, chance: random.Random, profile: Sequence[str]) -> None:
        self._stage = stage
        self._chance = chance
        self._profile = profile
        self._acts: dict[str, Callable[[], Awaitable[None]]] = {
            "store weather": self._store_weather,
            "compaction": self._compaction,
            "lease": self._lease,
            "slow watch": self._slow_watch,
            "no quorum": self._no_quorum,
            "manager cut off from the store": self._store_cut,
            "weather": self._weather,
            "partition": self._partition,
            "agent cut off": self._agent_cut,
            "manager": self._manager,
            "leader": self._leader,
            "agent": self._agent,
            "host": self._host,
        }

    async def run(self) -> None:
        """Until cancelled; `World.heal` undoes what is left."""
        if not self._profile:
            return
        while True:
            await asyncio.sleep(self._chance.uniform(0.1, 2.5))
            kind = self._chance.choice(self._profile)
            await self._acts[kind]()

    def _say(self, what: str) -> None:
        self._stage.truth.say(f"fault: {what}")

    async def _while(self, longest: float) -> None:
        await asyncio.sleep(self._chance.uniform(0.05, longest))

    # -- the store

    async def _store_weather(self) -> None:
        chance = self._chance
        etcd = self._stage.etcd
        etcd.faults = Faults(
            request=(0.0, chance.choice((0.002, 0.1))),
            answer=(0.0, chance.choice((0.002, 0.1))),
            lag=(0.0, chance.choice((0.0, 0.1, 1.0))),
            lease_lag=(0.0, 0.5),
            unavailable=chance.choice((0.0, 0.1)),
            lost_request=chance.choice((0.0, 0.1)),
            lost_answer=chance.choice((0.0, 0.2)),
            late_request=chance.choice((0.0, 0.1)),
            broken_watch=chance.choice((0.0, 0.2)),
            stale=chance.choice((0, 10)),
        )
        self._say(f"store: {etcd.faults}")
        await self._while(6.0)
        etcd.faults = Faults()
        self._say("store: fair")

    async def _compaction(self) -> None:
        state = self._stage.etcd.state
        to = max(state.compacted + 1, state.revision - self._chance.randint(0, 20))
        if to <= state.revision:
            self._say(f"store compacted to {to}")
            self._stage.etcd.compact(to)

    async def _lease(self) -> None:
        """A lease ends at the store that its holder still counts on (clocks differ)."""
        leases = self._stage.etcd.leases()
        leader = self._stage.etcd.lease_of(LEADER_KEY)
        if leases:
            lease = self._chance.choice(leases)
            if leader and self._chance.random() < 0.5:
                lease = leader
            self._say(f"lease {lease & 0xFFFF} ends early")
            self._stage.etcd.expire(lease)

    async def _slow_watch(self) -> None:
        """One manager sees late what all others see; if it leads, that it does no more.

        A host that has heard the others turns to it, for it reaches no other one.
        """
        managers, truth, etcd = self._stage.managers, self._stage.truth, self._stage.etcd
        if not managers:
            return
        manager = managers.get(NodeID(truth.leader))
        if manager is None or self._chance.random() < 0.5:
            manager = self._chance.choice(tuple(managers.values()))
        self._say(f"{manager.node} sees late")
        manager.kv.lag = (0.5, 3.0)
        await asyncio.sleep(self._chance.uniform(0.3, 1.5))
        host = self._best_informed(but=manager)
        cut = [m for m in self._stage.manager_nodes if m not in (host, manager.node)]
        for other in cut:
            self._stage.network.cut(host, other)
        self._stage.network.break_off(host)
        self._say(f"{host} reaches no manager but {manager.node}")
        await self._while(2.0)
        lease = etcd.lease_of(LEADER_KEY)
        if lease and manager.node == truth.leader:
            self._say("the leader's lease ends early")
            etcd.expire(lease)
        await self._while(4.0)
        for other in cut:
            self._stage.network.mend(host, other)
        manager.kv.lag = (0.0, 0.0)
        self._say(f"{manager.node} sees in time")

    def _best_informed(self, but: Manager) -> NodeID:
        """Of the hosts with sessions elsewhere, the one that has heard the newest."""
        agents = {
            name: host.agent.worker.stamp
            for name, host in self._stage.hosts.items()
            if host.agent is not None and but.sessions.of(name) is None
        }
        return max(agents, key=lambda name: agents[name], default=but.node)

    async def _no_quorum(self) -> None:
        self._say("no quorum")
        self._stage.etcd.quorum = False
        await self._while(4.0)
        self._stage.etcd.quorum = True
        self._say("quorum")

    async def _store_cut(self) -> None:
        managers = self._stage.managers
        if not managers:
            return
        node = self._chance.choice(tuple(managers))
        manager = managers[node]
        self._say(f"{node} cannot reach the store")
        manager.kv.reachable = False
        await self._while(5.0)
        if managers.get(node) is manager:
            manager.kv.reachable = True
            self._say(f"{node} reaches the store")

    # -- the network

    async def _weather(self) -> None:
        chance = self._chance
        weather = Weather(
            delay=(0.001, chance.choice((0.01, 0.3, 1.5))),
            twice=chance.choice((0.0, 0.2)),
            breaks=chance.choice((0.0, 0.02, 0.1)),
            late=chance.choice((0.0, 0.0, 0.1)),
        )
        self._say(f"network: {weather}")
        self._stage.network.change_weather(weather)
        await self._while(6.0)
        self._stage.network.change_weather(Weather())
        self._say("network: fair")

    async def _partition(self) -> None:
        """Some hosts on one side, the rest on the other; the store is not split."""
        hosts = tuple(self._stage.hosts)
        side = [host for host in hosts if self._chance.random() < 0.4]
        pairs = [(a, b) for a in side for b in hosts if b not in side]
        self._say(f"{', '.join(side) or 'nobody'} cut off from the rest")
        for one, other in pairs:
            self._stage.network.cut(one, other)
        await self._while(8.0)
        for one, other in pairs:
            self._stage.network.mend(one, other)
        self._say("links mended")

    async def _agent_cut(self) -> None:
        host = self._chance.choice(tuple(self._stage.hosts))
        manager = self._chance.choice(self._stage.manager_nodes)
        self._say(f"no link between {host} and {manager}")
        self._stage.network.cut(host, manager)
        await self._while(6.0)
        self._stage.network.mend(host, manager)
        self._say(f"link between {host} and {manager}")

    # -- processes and hosts

    async def _manager(self) -> None:
        await self._kill_manager(self._chance.choice(self._stage.manager_nodes))

    async def _leader(self) -> None:
        if self._stage.truth.leader:
            await self._kill_manager(NodeID(self._stage.truth.leader))

    async def _kill_manager(self, node: NodeID) -> None:
        self._say(f"manager {node} killed")
        self._stage.kill_manager(node)
        await self._while(5.0)
        self._stage.start_manager(node)
        self._say(f"manager {node} started")

    async def _agent(self) -> None:
        host = self._stage.hosts[self._chance.choice(tuple(self._stage.hosts))]
        self._say(f"agent {host.node} killed")
        host.kill()
        await self._while(5.0)
        if host.powered:
            host.begin()
            self._say(f"agent {host.node} started")

    async def _host(self) -> None:
        node = self._chance.choice(tuple(self._stage.hosts))
        self._say(f"host {node} lost its power")
        self._stage.lose_power(node)
        await self._while(10.0)
        self._stage.power_on(node)
        self._say(f"host {node} is back")
