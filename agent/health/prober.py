"""Runs a container's health probes, one after another, as long as the container runs.

What the results amount to is `counting`'s. Started by the engine beside a running container.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from agent.health.counting import Health, ProbeResult, count, next_in, timeout
from shoal.common.clock import Clock
from shoal.model.container import HealthConfig
from shoal.model.errors import ClusterError


class ProbeRunner(Protocol):
    """The part of the runtime that probes need."""

    async def probe(
        self, container: str, process: Mapping[str, Any], timeout: float
    ) -> tuple[int, bytes]: ...


Process = Callable[[], Awaitable[Mapping[str, Any]]]
"""The OCI process of the probe, made anew each time."""


class Prober:
    """Probes one run of one container."""

    def __init__(self, runtime: ProbeRunner, clock: Clock, container: str) -> None:
        self._runtime = runtime
        self._clock = clock
        self._container = container

    async def run(
        self,
        config: HealthConfig,
        process: Process,
        started: datetime,
        tell: Callable[[Health], None],
        health: Health,
    ) -> None:
        """Probe until cancelled; `tell` hears the health after every probe."""
        while True:
            await asyncio.sleep(next_in(config, health, started, self._clock.now()))
            result = await self._probe(config, process)
            health = count(config, health, started, result)
            tell(health)

    async def _probe(self, config: HealthConfig, process: Process) -> ProbeResult:
        start, limit = self._clock.now(), timeout(config)
        try:
            code, output = await self._runtime.probe(self._container, await process(), limit)
        except ClusterError as error:
            code, output = -1, str(error).encode()
        if code == -1 and not output:
            output = f"Health check exceeded timeout ({limit:g}s)".encode()
        return ProbeResult(
            start=start,
            end=self._clock.now(),
            exit_code=code,
            output=output.decode(errors="replace"),
        )
