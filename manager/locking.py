"""Autolock: a manager that waits for the unlock key, and one whose files follow the cluster.

While it is locked nothing of the store can be opened, so nothing is served but the door for the
key (`locked.sock`, for the agent of this host). Its etcd goes on voting meanwhile: a reboot of
several managers costs no quorum, and what etcd has is sealed where it is secret.
"""

import asyncio
from pathlib import Path

import structlog
from aiohttp import web

from manager.secret_files import ManagerFiles
from manager.store.memory import Memory
from manager.trust import Authorities
from shoal.common.config import HostConfig
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.common.key_files import is_locked
from shoal.model.objects import Cluster
from shoal.model.spec.cluster import UnlockRequest

_log = structlog.get_logger(__name__)


async def until_unlocked(config: HostConfig, files: ManagerFiles) -> None:
    """Return once the data key is open; at once where it is not locked."""
    if not is_locked(config):
        return
    opened = asyncio.Event()

    async def unlock(call: Call) -> web.StreamResponse:
        request = await call.body(UnlockRequest)
        await asyncio.to_thread(files.unlock, request.unlock_key)
        opened.set()
        return call.empty(200)

    router = Router()
    router.add("POST", "/swarm/unlock", unlock)
    async with EngineServer(router) as server:
        await server.serve_unix(Path(config.run) / "locked.sock", mode=0o600)
        _log.warning("locked: waiting for the unlock key")
        await opened.wait()
    _log.info("unlocked")


class LockFollower:
    """Has the data key on disk lie as the cluster wants it."""

    def __init__(
        self, memory: Memory, authorities: Authorities, files: ManagerFiles, data_key: bytes
    ) -> None:
        self._memory = memory
        self._authorities = authorities
        self._files = files
        self._data_key = data_key

    async def run(self) -> None:
        """Follow until cancelled."""
        with self._memory.woken_by(Cluster) as woken:
            while True:
                woken.clear()
                unlock_key = self._authorities.secrets().unlock_key
                await asyncio.to_thread(self._files.keep, self._data_key, unlock_key)
                await woken.wait()
