"""What lies behind volumes with options: mounted for the first run that uses it, till the last.

`type`, `o` and `device` are mount(8)'s, as with Docker's local driver: an NFS export, a tmpfs,
a directory of the host (`o=bind`). Which runs use a volume is kept in memory and told anew by
the engine after a restart, before any run is taken down. Called by `preparing`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

from agent.engine.records import Record
from agent.volumes import Volume, Volumes
from shoal.model.errors import NotFound


class VolumeMounts:
    """The mounts of all volumes with options."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._runs: defaultdict[str, set[str]] = defaultdict(set)
        self._lock = asyncio.Lock()

    def keep(self, record: Record) -> None:
        """A run that an earlier agent began."""
        for volume in self._of(record):
            self._runs[volume.name].add(record.id)

    async def mount(self, record: Record) -> None:
        """Have the container's volumes there.

        Raises:
            InvalidArgument: mount(8) refuses; its reason is in the sentence.
        """
        if not (volumes := list(self._of(record))):
            return
        async with self._lock:
            for volume in volumes:
                await asyncio.to_thread(self._volumes.mount, volume)
                self._runs[volume.name].add(record.id)

    async def unmount(self, record: Record) -> None:
        """The container's run is over."""
        if not (volumes := list(self._of(record))):
            return
        async with self._lock:
            for volume in volumes:
                runs = self._runs[volume.name]
                runs.discard(record.id)
                if not runs:
                    del self._runs[volume.name]
                    await asyncio.to_thread(self._volumes.unmount, volume)

    def _of(self, record: Record) -> Iterator[Volume]:
        for mount in record.mounts:
            if mount.type != "volume":
                continue
            try:
                volume = self._volumes.get(mount.name)
            except NotFound:  # its record is lost; the directory may be there still
                continue
            if volume.options:
                yield volume
