"""The task manager's view of whatever runs a task: the driver seam, and its errors.

A controller is made for one task and lives as long as its task manager. It has no idea of
desired states; the task machine (`agent.task.machine`) has no idea of containers.
Implementations: `agent.engine.controller` (containers of this host) and `agent.runtime.fake`
(simulation), held to one suite, `tests/contract/test_controller.py`. The contract follows
swarmkit's `agent/exec/controller.go`.
"""

from datetime import datetime
from typing import Protocol

import msgspec

from shoal.model.errors import ClusterError


class RuntimeFailure(ClusterError):
    """The container could not be made or started, or ended badly.

    Attributes:
        retryable: the same step may succeed later (an image pull, a busy port); the task stays.
        exit_code: of the container, where there is one.
    """

    def __init__(
        self, sentence: str, *, retryable: bool = False, exit_code: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.retryable = retryable
        self.exit_code = exit_code


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's status tells of its container; addresses by network name."""

    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    started_at: datetime | None = None
    addresses: tuple[str, ...] = ()
    ports: tuple[tuple[str, int, int], ...] = ()  # (protocol, target, published) in host mode


class Controller(Protocol):
    """One task's container. Each call does one step and may be cancelled and repeated.

    Every call is idempotent: after an agent restart the machine repeats the last step. Failures
    are `RuntimeFailure`.
    """

    async def prepare(self) -> None:
        """Have the image, mounts and the created container; pulls as needed."""
        ...

    async def start(self) -> None:
        """Start it and return once it counts as running: healthy, if it has a check.

        One that has run and ended is not started again: a task runs once. It counts as running,
        for `wait` to tell the rest, or fails with its exit code.
        """
        ...

    async def wait(self) -> None:
        """Return when the container ended with code 0; raise `RuntimeFailure` otherwise.

        An unhealthy container is stopped and reported as a failure.
        """
        ...

    async def shutdown(self) -> None:
        """Stop it gracefully: its stop signal, then after the grace period SIGKILL.

        Requests that it has already may first use up half of the grace period.
        """
        ...

    async def remove(self) -> None:
        """Remove the container and what was made for it."""
        ...

    def state(self) -> ContainerState:
        """The latest known facts, without I/O."""
        ...
