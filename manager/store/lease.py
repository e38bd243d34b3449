"""A lease kept alive, and the time until which its holder may rely on it.

Both the leader's key (`election`) and a manager's sessions hang on such a lease. The one rule:
its holder stops before the store can have ended it, so time counts from when the last
successful renewal was *sent*, on the loop's monotonic clock. What ends with a lease is the
caller's.
"""

import asyncio

import structlog
from msgspec import Struct

from manager.store import kv
from shoal.model import errors

_log = structlog.get_logger(__name__)

REVOKE_DEADLINE = 1.0


class LeaseSettings(Struct, frozen=True):
    """How long a lease lives and how it is kept.

    `ttl` is asked for in whole seconds, the others are fractions of what was granted. An
    attempt is given up after `attempt`, since what etcd was asked as it lost its Raft leader it
    answers seconds late or never; the holder stops `margin` before the end, which is the time
    it has for cancelling its work.
    """

    ttl: int = 1
    renew_every: float = 0.3
    retry_every: float = 0.1
    attempt: float = 0.3
    margin: float = 0.15


class HeldLease:
    """A granted lease. Make it with `grant`, run `keep` next to the work that relies on it."""

    def __init__(
        self, store: kv.KV, lease: kv.Lease, sent: float, settings: LeaseSettings
    ) -> None:
        self._store = store
        self._ttl = lease.ttl
        self._settings = settings
        self.id = lease.id
        self._until = self._end_from(sent)

    @property
    def until(self) -> float:
        """The loop's time until which the lease surely exists, less the margin."""
        return self._until

    @property
    def valid(self) -> bool:
        """Whether the holder may still act."""
        return asyncio.get_running_loop().time() < self._until

    async def keep(self) -> str:
        """Renew until that is no longer possible; returns why, in a phrase for the log."""
        loop = asyncio.get_running_loop()
        pause = self._settings.renew_every
        while True:
            wake = min(loop.time() + pause * self._ttl, self._until)
            await asyncio.sleep(wake - loop.time())
            sent = loop.time()
            if sent >= self._until:
                return "could not renew the lease in time"
            last = min(sent + self._settings.attempt * self._ttl, self._until)
            try:
                async with asyncio.timeout_at(last):
                    self._ttl = await self._store.lease_keepalive(self.id)
            except kv.LeaseNotFound:
                return "the lease has expired"
            except (TimeoutError, errors.Unavailable) as error:
                _log.debug("lease renewal failed", lease=self.id, error=str(error))
                pause = self._settings.retry_every
            else:
                self._until = self._end_from(sent)
                pause = self._settings.renew_every

    async def revoke(self) -> None:
        """End it now. If that fails, it expires by itself, which is logged and no error."""
        try:
            async with asyncio.timeout(REVOKE_DEADLINE):
                await self._store.lease_revoke(self.id)
        except kv.LeaseNotFound:
            return
        except (TimeoutError, errors.Unavailable) as error:
            _log.info("lease left to expire", lease=self.id, error=str(error))

    def _end_from(self, sent: float) -> float:
        return sent + self._ttl * (1 - self._settings.margin)


async def grant(store: kv.KV, settings: LeaseSettings) -> HeldLease:
    """Get a lease; its time counts from before the request was sent.

    `OutcomeUnknown` if the store does not answer within the lease's life; a lease that exists
    all the same ends by itself.
    """
    sent = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(settings.ttl):
            lease = await store.lease_grant(settings.ttl)
    except TimeoutError as error:
        raise kv.OutcomeUnknown("the store did not grant a lease in time") from error
    return HeldLease(store, lease, sent, settings)
