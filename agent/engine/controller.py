"""Runs one task's container by the engine: the `oci` form of the task manager's `Controller`.

The container is found by its owner, the task's id, so a restarted agent goes on with the one
that runs. Every call may be repeated. `EngineControllers` makes them for the worker.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Protocol

import msgspec

from agent.dependencies import Dependencies
from agent.engine import leaving
from agent.engine.container import Container
from agent.engine.engine import Engine
from agent.engine.from_task import attachments_of, container_of
from agent.engine.records import MountPoint
from agent.images.image import Image, RegistryAuth
from agent.network.desired import MESH
from agent.runtime.controller import ContainerState, RuntimeFailure
from shoal.model.assignment import AssignedTask, Assignments
from shoal.model.errors import ClusterError, NotFound, Unavailable
from shoal.model.ids import TaskID


class Pulling(Protocol):
    """Where images come from that this host has not."""

    def find(self, text: str) -> Image: ...

    async def pull(
        self, name: str, auth: RegistryAuth | None = None, platform: str | None = None
    ) -> Image: ...


class Credentials:
    """Registry credentials of tasks: in memory only, as the managers last gave them."""

    def __init__(self) -> None:
        self._of: dict[TaskID, str] = {}

    def update(self, told: Assignments) -> None:
        """These are all there are now."""
        self._of = {task.id: task.registry_auth for task in told.tasks.values()}

    def of(self, task: TaskID) -> RegistryAuth | None:
        """The credentials for a task's image; None where none were given."""
        text = self._of.get(task, "")
        if not text:
            return None
        try:
            fields = msgspec.json.decode(
                base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=dict[str, str]
            )
        except (binascii.Error, msgspec.MsgspecError) as error:
            raise RuntimeFailure(f"the registry credentials cannot be read: {error}") from error
        return RegistryAuth(
            username=fields.get("username", ""),
            password=fields.get("password", ""),
            identity_token=fields.get("identitytoken", ""),
        )


class EngineControllers:
    """Makes controllers; implements `agent.worker.Controllers`."""

    def __init__(
        self,
        engine: Engine,
        images: Pulling,
        credentials: Credentials,
        dependencies: Dependencies,
    ) -> None:
        self._engine = engine
        self._images = images
        self._credentials = credentials
        self._dependencies = dependencies

    def make(self, task: AssignedTask) -> "EngineController":
        return EngineController(
            self._engine, self._images, self._credentials, self._dependencies, task
        )

    def owned(self) -> Iterable[TaskID]:
        return [TaskID(c.record.owner) for c in self._engine.registry if c.record.owner]


class EngineController:
    """See `agent.runtime.controller.Controller` for what each call promises."""

    def __init__(
        self,
        engine: Engine,
        images: Pulling,
        credentials: Credentials,
        dependencies: Dependencies,
        task: AssignedTask,
    ) -> None:
        self._engine = engine
        self._images = images
        self._credentials = credentials
        self._dependencies = dependencies
        self._task = task

    async def prepare(self) -> None:
        if self._found() is not None:
            return
        files = await self._dependencies.provide(self._task)
        await self._have_image(self._task.container.image)
        await self._engine.create(
            container_of(self._task),
            self._task.name,
            owner=self._task.id,
            attachments=attachments_of(self._task),
            labels=self._task.labels,
            files=[
                MountPoint(type="bind", source=file.source, destination=file.target, rw=False)
                for file in files
            ],
        )

    async def start(self) -> None:
        container = self._container()
        if container.state.started_at is not None and not container.state.running:
            # It ran, and the host was cut off before the journal knew: a task runs once.
            self._check_exit(container)
            return
        await self._dependencies.provide(self._task)  # gone if the host itself was restarted
        try:
            await self._engine.lifecycle.start(container)
        except RuntimeFailure:
            raise
        except Unavailable as error:
            raise RuntimeFailure(
                f"starting container failed: {error}", retryable=True
            ) from error
        while container.state.running:
            health = container.health
            if health is None or health.status == "healthy":
                return
            if health.status == "unhealthy":
                await self._engine.lifecycle.stop(container)
                raise RuntimeFailure("dockerexec: unhealthy container")
            await container.next_change()
        self._check_exit(container)

    async def wait(self) -> None:
        container = self._container()
        while container.state.running:
            health = container.health
            if health is not None and health.status == "unhealthy":
                await self._engine.lifecycle.stop(container)
                await self._dependencies.withdraw(self._task.id)
                raise RuntimeFailure("dockerexec: unhealthy container")
            await container.next_change()
        await self._dependencies.withdraw(self._task.id)
        self._check_exit(container)

    async def shutdown(self) -> None:
        container = self._found()
        if container is not None:
            await leaving.stop(self._engine.lifecycle, container)
        await self._dependencies.withdraw(self._task.id)

    async def remove(self) -> None:
        await self._dependencies.withdraw(self._task.id)
        container = self._found()
        if container is None:
            return
        try:
            await self._engine.lifecycle.remove(container, force=True, volumes=True)
        except NotFound:
            return

    def state(self) -> ContainerState:
        container = self._found()
        if container is None:
            return ContainerState()
        state, endpoint = container.state, container.record.endpoint
        ports = endpoint.ports if endpoint is not None else ()
        gateway = endpoint.on(MESH) if endpoint is not None else None
        return ContainerState(
            container_id=container.id,
            pid=state.pid,
            exit_code=None if state.running else state.exit_code,
            started_at=state.started_at,
            addresses=(gateway.ipv4,) if gateway is not None else (),
            ports=tuple((p.protocol, p.container_port, p.host_port) for p in ports),
        )

    def _found(self) -> Container | None:
        for container in self._engine.registry:
            if container.record.owner == self._task.id:
                return container
        return None

    def _container(self) -> Container:
        container = self._found()
        if container is None:
            raise RuntimeFailure("the task's container was removed from this host")
        return container

    def _check_exit(self, container: Container) -> None:
        state = container.state
        if state.exit_code:
            reason = f"task: non-zero exit ({state.exit_code})"
            if state.oom_killed:
                reason += ": out of memory"
            raise RuntimeFailure(reason, exit_code=state.exit_code)

    async def _have_image(self, name: str) -> None:
        """Find the image here or pull it; a host that cannot reach a registry says so."""
        if self._has(name):
            return
        try:
            await self._images.pull(name, self._credentials.of(self._task.id))
        except ClusterError as error:
            raise RuntimeFailure(f"No such image: {name}: {error}") from error

    def _has(self, name: str) -> bool:
        try:
            self._images.find(name)
        except NotFound:
            return False
        return True
