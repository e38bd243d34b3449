"""Builds this host's part in a cluster out of engine, images and network.

One `ClusterAgent` at a time; the composition root hands `make` to `agent.swarm`.
"""

import random
from collections.abc import Callable, Sequence

from agent.cluster_network import HostClusterNetwork
from agent.config import AgentConfig
from agent.dependencies import Dependencies
from agent.describe import Describer
from agent.engine.controller import Credentials, EngineControllers, Pulling
from agent.engine.engine import Engine
from agent.journal import Journal
from agent.line import dialled
from agent.membership import ClusterAgent
from agent.network.host_network import HostNetwork
from agent.report import Reports
from agent.worker import Worker
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.identity import CurrentIdentity
from shoal.model.assignment import Assignments, ManagerAddress


class Confided:
    """What managers tell that never goes to disk."""

    def __init__(self, credentials: Credentials, dependencies: Dependencies) -> None:
        self.credentials = credentials
        self.dependencies = dependencies

    def update(self, told: Assignments) -> None:
        """A manager's word: these are all there are now."""
        self.credentials.update(told)
        self.dependencies.update(told)


class Nodes:
    """What every life as a node is built of."""

    def __init__(
        self,
        config: AgentConfig,
        engine: Engine,
        images: Pulling,
        network: HostNetwork,
        clock: Clock,
    ) -> None:
        self._config = config
        self._engine = engine
        self._images = images
        self._network = network
        self._clock = clock
        self.chance = random.Random()  # noqa: S311 - spreads delays, guards nothing

    def make(
        self,
        host: HostConfig,
        current: CurrentIdentity,
        managers: Sequence[ManagerAddress],
        told: Callable[[Assignments], None],
    ) -> ClusterAgent:
        """A node of the cluster that the identity is for."""
        confided = Confided(Credentials(), Dependencies(self._config.run / "payloads"))
        worker = Worker(
            Journal(self._config.state),
            EngineControllers(
                self._engine, self._images, confided.credentials, confided.dependencies
            ),
            confided,
            HostClusterNetwork(self._network, host.data_path, current.get().node_id),
            Reports(),
            self._clock,
            self.chance,
        )
        agent = ClusterAgent(
            current,
            worker,
            dialled,
            managers,
            Describer(host, self._network, current).report,
            self.chance,
            told,
        )
        self._network.report_changed = agent.described
        return agent
