"""The end of a task's container without losing a request.

By now no host sends it new ones (`agent.task.manager` waited for that). Those that it has are
given half of the grace period to end; then it gets its stop signal, and what is left of the
grace. Used by `controller`.
"""

import asyncio
import math
from pathlib import Path

from agent.engine.container import Container
from agent.engine.lifecycle import STOP_SECONDS, Lifecycle
from agent.network.connections import inbound

_LOOK_SECONDS = 0.05
_PART = 0.5


async def stop(lifecycle: Lifecycle, container: Container) -> None:
    """Stop it once its connections have ended, or it has had its time. Idempotent."""
    timeout = container.record.config.stop_timeout
    grace = STOP_SECONDS if timeout is None else timeout
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await _connections_ended(container, begun + grace * _PART)
    await lifecycle.stop(container, max(0, math.ceil(grace - (loop.time() - begun))))


async def _connections_ended(container: Container, until: float) -> None:
    loop = asyncio.get_running_loop()
    while container.state.running and container.record.endpoint is not None:
        if await asyncio.to_thread(_inbound, container.state.pid) == 0:
            return
        if loop.time() >= until:
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _inbound(pid: int) -> int:
    """Connections to a process' network namespace; none, once it is gone."""
    try:
        return inbound(Path(f"/proc/{pid}/net/{kind}").read_text() for kind in ("tcp", "tcp6"))
    except OSError:
        return 0
