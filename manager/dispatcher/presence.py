"""This manager's lease, held as long as it can be: its agents' sessions hang on it.

When the manager dies its sessions vanish with the lease. A manager that cannot renew in time
closes them itself, before the store can have ended the lease (DESIGN rule 3c), and gets a new
lease as soon as the store answers.
"""

import asyncio
from collections.abc import Callable
from random import Random

import structlog

from manager.store.kv import KV
from manager.store.lease import HeldLease, LeaseSettings, grant
from shoal.common.backoff import Backoff
from shoal.model.errors import Unavailable

_log = structlog.get_logger(__name__)

SETTINGS = LeaseSettings(ttl=3)
BACKOFF = Backoff(first=0.1, factor=2.0, cap=2.0)


class Presence:
    """One lease after another; `lease` is the present one's id, None while there is none."""

    def __init__(self, kv: KV, chance: Random) -> None:
        self._kv = kv
        self._chance = chance
        self._held: HeldLease | None = None
        self._on_loss: list[Callable[[], None]] = []

    @property
    def lease(self) -> int | None:
        return self._held.id if self._held is not None and self._held.valid else None

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call back when the lease is, or may be, lost."""
        self._on_loss.append(callback)

    async def run(self) -> None:
        """Hold a lease until cancelled."""
        delays = BACKOFF.delays(self._chance)
        while True:
            try:
                self._held = held = await grant(self._kv, SETTINGS)
            except Unavailable as error:
                _log.info("no lease from the store yet", reason=str(error))
                await asyncio.sleep(next(delays))
                continue
            delays = BACKOFF.delays(self._chance)
            try:
                reason = await held.keep()
            finally:
                self._held = None
                for callback in self._on_loss:
                    callback()
                await held.revoke()
            _log.warning("the manager's lease is lost", reason=reason)
