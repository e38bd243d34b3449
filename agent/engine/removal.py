"""What is left of an ended container: its directory, its hold on the image, its volumes."""

import asyncio
import contextlib
import shutil

from agent.engine.container import Container
from agent.engine.preparing import ROOT
from agent.engine.registry import Registry
from agent.engine.seams import Images
from agent.runtime.oci import rootfs
from agent.volumes import Volumes
from shoal.model.errors import NotFound


class Removal:
    """Erases containers that have been taken down."""

    def __init__(self, registry: Registry, images: Images, volumes: Volumes) -> None:
        self._registry = registry
        self._images = images
        self._volumes = volumes

    async def erase(self, container: Container, *, volumes: bool) -> None:
        """Forget the container; with `volumes` the anonymous ones that only it used go too."""
        await asyncio.to_thread(_delete, container)
        await self._images.release(container.id)
        container.removed = True
        self._registry.drop(container)
        if volumes:
            await asyncio.to_thread(self._remove_volumes, container)

    def users_of(self, volume: str) -> list[str]:
        """Ids of the containers that mount a volume."""
        return [
            other.id
            for other in self._registry
            if any(m.type == "volume" and m.name == volume for m in other.record.mounts)
        ]

    def _remove_volumes(self, container: Container) -> None:
        for mount in container.record.mounts:
            if mount.type != "volume" or self.users_of(mount.name):
                continue
            with contextlib.suppress(NotFound):
                if self._volumes.get(mount.name).anonymous:
                    self._volumes.remove(mount.name, [])


def _delete(container: Container) -> None:
    rootfs.unmount(container.directory / ROOT)
    shutil.rmtree(container.directory, ignore_errors=True)
    shutil.rmtree(container.bundle, ignore_errors=True)
