"""Keeping a node's certificate fresh: when to renew, and the loop that does.

A certificate is renewed at a random point between half and four fifths of its life, at once
when forced (a changed role, a rotated root). The call itself is the caller's (`Ask`): the
agent asks the CA service over its channel. A manager process beside the agent does not renew;
it follows what the agent saved (`follow`).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog
from msgspec import Struct

from shoal.common.backoff import Backoff
from shoal.common.certificates import BACKDATE, new_csr_pem, new_key_pem
from shoal.common.clock import Clock
from shoal.common.identity import CurrentIdentity, Identity, IdentityStore, identity_of
from shoal.model.errors import ClusterError, NotFound

EARLIEST = 0.5
LATEST = 0.8
LONGEST_WAIT = 3600.0
"""Look at the clock again after this: a suspended machine's monotonic clock stood still."""

FOLLOW_SECONDS = 2.0
"""How late another process of a node takes over what the agent has renewed, at most."""

FAILURES = Backoff(first=5.0, cap=3600.0)

_log = structlog.get_logger(__name__)


class Renewed(Struct, frozen=True, kw_only=True):
    """What the CA answered."""

    certificate_pem: bytes
    roots_pem: bytes


Ask = Callable[[bytes], Awaitable[Renewed]]
"""Signing request to certificate, as the present identity; raises ClusterError only."""


def renew_at(identity: Identity, chance: random.Random) -> datetime:
    """When to renew, at random within the window.

    Life counts from the signing, not from the backdated beginning: half of the span of a
    one-hour certificate lies before it was signed.
    """
    signed = identity.not_before + BACKDATE
    return signed + (identity.not_after - signed) * chance.uniform(EARLIEST, LATEST)


class Renewal:
    """The loop. One a node, in the agent."""

    def __init__(
        self,
        current: CurrentIdentity,
        store: IdentityStore,
        ask: Ask,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._current = current
        self._store = store
        self._ask = ask
        self._clock = clock
        self._chance = chance
        self._forced = asyncio.Event()

    def force(self) -> None:
        """Renew now, e.g. because the node's role has changed."""
        self._forced.set()

    async def run(self) -> None:
        """Renew for ever; run it in the owner's group."""
        while True:
            await self._until_due()
            await self._renew_until_done()

    async def renew(self) -> Identity:
        """One renewal: new key, new certificate, kept on disk, then in use."""
        key_pem = new_key_pem()
        answer = await self._ask(new_csr_pem(key_pem))
        identity = identity_of(
            key_pem=key_pem,
            certificate_pem=answer.certificate_pem,
            roots_pem=answer.roots_pem,
        )
        self._current.check_same_node(identity)
        await asyncio.to_thread(self._store.save, identity)
        self._current.replace(identity)
        return identity

    async def _until_due(self) -> None:
        due = renew_at(self._current.get(), self._chance)
        while not self._forced.is_set():
            remaining = (due - self._clock.now()).total_seconds()
            if remaining <= 0:
                return
            try:
                async with asyncio.timeout(min(remaining, LONGEST_WAIT)):
                    await self._forced.wait()
            except TimeoutError:
                continue

    async def _renew_until_done(self) -> None:
        delays = FAILURES.delays(self._chance)
        while True:
            self._forced.clear()
            try:
                identity = await self.renew()
            except ClusterError as error:
                delay = next(delays)
                _log.warning("certificate not renewed", reason=str(error), retry_in=delay)
            else:
                _log.info(
                    "certificate renewed",
                    role=identity.role,
                    not_after=identity.not_after.isoformat(),
                )
                return
            try:
                async with asyncio.timeout(delay):
                    await self._forced.wait()
            except TimeoutError:
                continue


async def follow(
    store: IdentityStore, current: CurrentIdentity, seconds: float = FOLLOW_SECONDS
) -> None:
    """Take over, for ever, what another process of this node saves in the store."""
    stamp: object = None
    while True:
        newest = await asyncio.to_thread(store.stamp)
        if newest is not None and newest != stamp:
            stamp = newest
            await _take_over(store, current)
        await asyncio.sleep(seconds)


async def _take_over(store: IdentityStore, current: CurrentIdentity) -> None:
    try:
        identity = await asyncio.to_thread(store.load)
        if identity != current.get():
            current.replace(identity)
            _log.info("certificate taken over", not_after=identity.not_after.isoformat())
    except NotFound:
        _log.info("identity removed")  # the node is leaving; its owner ends this process
    except ClusterError as error:
        _log.warning("identity on disk not usable", reason=str(error))
