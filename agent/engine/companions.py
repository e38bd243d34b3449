"""What runs beside a running container: health probes and log rotation."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from agent.engine.container import Container
from agent.engine.events import EventBus
from agent.engine.preparing import Preparer, log_policy
from agent.health import counting
from agent.health.counting import Health
from agent.health.prober import Prober
from agent.logs import Rotator
from agent.runtime.oci.process import ExecRequest
from agent.runtime.runtime import Runtime
from shoal.common.clock import Clock

log = structlog.get_logger(__name__)


class Companions:
    """Starts and ends them with the container's run."""

    def __init__(
        self, runtime: Runtime, preparer: Preparer, events: EventBus, clock: Clock
    ) -> None:
        self._runtime = runtime
        self._preparer = preparer
        self._events = events
        self._clock = clock

    def expect(self, container: Container) -> None:
        """A run begins: if it has a check, it is not healthy before the first one passes.

        Said before anybody can see it run (test_a_task_has_no_name_before_it_is_healthy).
        """
        config = container.record.config
        checked = counting.command(config.healthcheck, config.shell) is not None
        container.health = Health() if checked else None
        container.touched()

    @asynccontextmanager
    async def beside(self, container: Container) -> AsyncIterator[None]:
        """As long as the block lasts. A companion that fails is logged and disturbs nobody."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._kept(work, container), name=f"companion {container.id}")
                for work in self._wanted(container)
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def _wanted(self, container: Container) -> list[Any]:
        wanted: list[Any] = []
        policy = log_policy(container.record.host_config)
        if policy.max_size > 0:
            rotator = Rotator(
                container.directory, container.bundle, policy.max_size, policy.max_files
            )
            wanted.append(rotator.run())
        config = container.record.config
        if counting.command(config.healthcheck, config.shell) is not None:
            wanted.append(self._probe(container))
        return wanted

    async def _kept(self, work: Any, container: Container) -> None:
        try:
            await work
        except Exception:
            log.exception("companion failed", container=container.id)

    async def _probe(self, container: Container) -> None:
        config = container.record.config
        words = counting.command(config.healthcheck, config.shell)
        started = container.state.started_at
        if config.healthcheck is None or words is None or started is None:
            return
        health = container.health or Health()
        request = ExecRequest(args=words)

        async def process() -> Mapping[str, Any]:
            return await self._preparer.exec_process(container, request, "")

        def tell(health: Health) -> None:
            before, container.health = container.health, health
            container.touched()
            if before is not None and before.status != health.status:
                self._events.publish(
                    "container",
                    f"health_status: {health.status}",
                    container.id,
                    {
                        **container.record.config.labels,
                        "image": container.record.config.image,
                        "name": container.record.name,
                    },
                )

        prober = Prober(self._runtime, self._clock, container.id)
        await prober.run(config.healthcheck, process, started, tell, health)
