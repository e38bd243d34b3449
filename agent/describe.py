"""What this node is: hostname, platform, processors, memory, engine; read when asked.

Told to the manager at each session. Labels and generic resources of the host are settings.
"""

import os
import platform
from typing import Protocol

from shoal.common.config import HostConfig, label_map
from shoal.common.engine_http import versions
from shoal.common.identity import CurrentIdentity
from shoal.model.objects import (
    EngineDescription,
    NodeDescription,
    NodeReport,
    TakenPort,
    TunnelKey,
)
from shoal.model.resources import generic_of
from shoal.model.spec.task import Platform, Resources

_BILLION = 1_000_000_000
_PLUGINS = (
    ("Log", "json-file"),
    ("Log", "local"),
    ("Network", "bridge"),
    ("Network", "host"),
    ("Network", "ipvlan"),
    ("Network", "macvlan"),
    ("Network", "null"),
    ("Network", "overlay"),
    ("Volume", "local"),
)


class NetworkState(Protocol):
    """What managers have to know of the host's network."""

    @property
    def tunnel_keys(self) -> tuple[TunnelKey, ...]: ...

    @property
    def taken_ports(self) -> tuple[TakenPort, ...]: ...


class Describer:
    """Describes the host it was made for, and how it stands with the network there."""

    def __init__(
        self, config: HostConfig, network: NetworkState, current: CurrentIdentity
    ) -> None:
        self._config = config
        self._network = network
        self._current = current

    def report(self) -> NodeReport:
        """As of now."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return NodeReport(
            description=NodeDescription(
                hostname=self._config.hostname,
                platform=Platform(
                    architecture=platform.machine(), os=platform.system().lower()
                ),
                resources=Resources(
                    nano_cpus=(os.cpu_count() or 1) * _BILLION,
                    memory_bytes=memory,
                    generic_resources=generic_of(self._config.generic_resources),
                ),
                engine=EngineDescription(
                    engine_version=versions.ENGINE,
                    labels=label_map(self._config.labels),
                    plugins=_PLUGINS,
                ),
            ),
            addr=self._config.address,
            data_path_addr=self._config.data_path,
            tunnel=self._network.tunnel_keys,
            taken_ports=self._network.taken_ports,
            trust=self._current.get().trust,
        )
