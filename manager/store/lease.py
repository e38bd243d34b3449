"""A lease that is kept alive: what a manager attaches its agents' sessions to.

When the manager dies, the lease and all that hangs on it vanish. A manager that cannot renew in
time must stop acting as if it could: `id` is None from the moment at which the lease may have
expired, measured from when the last successful renewal was sent, never from its answer.
"""

import asyncio
from collections.abc import Callable

import structlog

from manager.store.kv import KV, LeaseNotFound
from shoal.model.errors import Unavailable

_log = structlog.get_logger(__name__)


class HeldLease:
    """One lease of `ttl` seconds, granted anew whenever it was lost."""

    def __init__(self, kv: KV, ttl: int) -> None:
        self._kv = kv
        self._ttl = ttl
        self._id = 0
        self._until = 0.0
        self._held = asyncio.Event()
        self._on_loss: list[Callable[[], None]] = []

    @property
    def id(self) -> int | None:
        """The lease while it surely holds, else None."""
        if self._id and asyncio.get_running_loop().time() < self._until:
            return self._id
        return None

    async def held(self) -> int:
        """Wait until there is a lease; its id."""
        while (lease := self.id) is None:
            self._held.clear()
            await self._held.wait()
        return lease

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call back whenever the lease is, or may be, lost."""
        self._on_loss.append(callback)

    async def run(self) -> None:
        """Hold the lease until cancelled; then revoke it if the store answers."""
        try:
            while True:
                await self._acquire()
                await self._keep()
        finally:
            await self._revoke()

    async def _acquire(self) -> None:
        while True:
            sent = asyncio.get_running_loop().time()
            try:
                lease = await self._kv.lease_grant(self._ttl)
            except Unavailable as error:
                _log.debug("no lease yet", reason=str(error))
                await asyncio.sleep(self._ttl / 6)
                continue
            self._id, self._until = lease.id, sent + self._ttl
            self._held.set()
            return

    async def _keep(self) -> None:
        """Renew at a third of the time; return when the lease is lost."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl / 3)
            sent = loop.time()
            try:
                async with asyncio.timeout_at(max(self._until, sent)):
                    await self._kv.lease_keepalive(self._id)
                self._until = sent + self._ttl
            except (TimeoutError, LeaseNotFound, Unavailable) as error:
                if isinstance(error, Unavailable) and loop.time() < self._until:
                    continue
                _log.warning("lease lost", lease=f"{self._id:x}", reason=str(error))
                self._id = 0
                for callback in self._on_loss:
                    callback()
                return

    async def _revoke(self) -> None:
        lease, self._id = self._id, 0
        if not lease:
            return
        try:
            async with asyncio.timeout(1):
                await self._kv.lease_revoke(lease)
        except (TimeoutError, LeaseNotFound, Unavailable) as error:
            _log.debug("lease left to expire", reason=str(error))
