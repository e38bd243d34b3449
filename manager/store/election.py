"""Which manager leads: one key under a lease, and the epoch that fences its writes.

A lease elects but excludes nobody, so every write of the leader elsewhere compares the leader
key's create revision with its epoch (`Election.fence`). Here is who holds the key, when to
stop, and how to take it from a leader that looks dead; the leader's work is the caller's, and
so is the probe that suspects a leader. `manager.leader` runs it.

Taking over early is two transactions, delete and create: a put over an existing key keeps its
create revision, which would leave the old leader's fence standing, and etcd refuses to delete
and put a key in one transaction. Between the two nobody leads, and any manager may come first.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from msgspec import Struct, json

from manager.store import kv
from manager.store.keys import LEADER_KEY
from manager.store.lease import HeldLease, LeaseSettings, grant
from shoal.model import errors

_log = structlog.get_logger(__name__)


class Candidate(Struct, frozen=True):
    """A manager as the leader key names it: its node id and where it serves gRPC."""

    id: str
    address: str


class Leader(Struct, frozen=True):
    """Who leads, and since which create revision of the leader key."""

    candidate: Candidate
    epoch: int


class ElectionSettings(Struct, frozen=True):
    """The lease, and the pauses in seconds.

    `retry` follows a failure of the store or the end of one's own leadership;
    `takeover_pause` doubles with every early takeover up to `takeover_cap`, and starts anew
    once a leader has stayed for `settled`. `attempt` bounds one look or takeover: what etcd was
    asked as it lost its Raft leader it answers only after 6 to 7 s (measured).
    """

    lease: LeaseSettings = LeaseSettings()
    retry: float = 0.2
    attempt: float = 0.5
    takeover_pause: float = 1.0
    takeover_cap: float = 30.0
    settled: float = 60.0


class Election:
    """One manager's part in the election.

    `await election.run(lead)` follows the leader key, campaigns when nobody holds it, and
    while this manager leads runs `lead(epoch)`, typically one TaskGroup with all the leader's
    loops. `lead` is cancelled as soon as leadership is lost or can no longer be renewed, the
    lease's margin before it may end at the store: its clean-up must not wait for the store.

    If `lead` returns, leadership is let go and sought again later; if it raises, let go, and
    the error leaves `run` in the ExceptionGroups of its task groups. Cancelling `run` lets go
    as well, so that another manager leads at once.
    """

    def __init__(
        self,
        store: kv.KV,
        me: Candidate,
        rng: random.Random,
        *,
        settings: ElectionSettings | None = None,
        key: bytes = LEADER_KEY,
    ) -> None:
        self._store = store
        self._me = me
        self._rng = rng
        self._settings = settings or ElectionSettings()
        self._key = key
        self._leader: Leader | None = None
        self._known_revision = 0
        self._moved = asyncio.Condition()
        self._held: HeldLease | None = None
        self._epoch = 0
        self._leader_since = 0.0
        self._takeovers = 0
        self._no_takeover_before = 0.0

    @property
    def epoch(self) -> int:
        """The epoch while this manager may act as leader, else 0."""
        return self._epoch if self._held is not None and self._held.valid else 0

    def leader(self) -> Leader | None:
        """The last known holder of the leader key; it may be gone already."""
        return self._leader

    def fence(self) -> kv.CreateRevisionIs:
        """The comparison every write of the leader carries. `Unavailable` if we do not lead."""
        epoch = self.epoch
        if not epoch:
            raise errors.Unavailable("this manager is not the leader", retry_after=1.0)
        return kv.CreateRevisionIs(self._key, epoch)

    async def changed(self, known: Leader | None) -> Leader | None:
        """Wait until the leader is another than `known`; returns the new one, or None."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._leader != known)
            return self._leader

    async def run(self, lead: Callable[[int], Awaitable[None]]) -> None:
        """Follow, campaign and lead until cancelled; see the class."""
        async with asyncio.TaskGroup() as group:
            follow = group.create_task(self._follow(), name="election follow")
            try:
                while True:
                    await self._vacant()
                    try:
                        await self._campaign(lead)
                    except errors.Unavailable as error:
                        _log.info("campaign failed", error=str(error))
                    await self._pause()
            finally:
                follow.cancel()

    # -- following the leader key

    async def _follow(self) -> None:
        while True:
            try:
                revision = await self._look()
                await self._watch_from(revision + 1)
            except kv.Compacted:
                continue
            except (TimeoutError, errors.Unavailable) as error:
                _log.info("lost sight of the leader key", error=str(error))
                await self._pause()

    async def _look(self) -> int:
        async with asyncio.timeout(self._settings.attempt):
            found = await self._store.range(self._key)
        await self._learn(found.kvs[0] if found.kvs else None, found.revision)
        return found.revision

    async def _watch_from(self, revision: int) -> None:
        async with self._store.watch(self._key, start_revision=revision) as watch:
            async for response in watch:
                for event in response.events:
                    await self._learn(
                        None if event.deleted else event.kv, event.kv.mod_revision
                    )

    async def _learn(self, found: kv.KeyValue | None, revision: int) -> None:
        """Take note of the key as of a revision; older news than what is known is dropped."""
        async with self._moved:
            if revision < self._known_revision:
                return
            self._known_revision = revision
            leader = None
            if found is not None:
                candidate = json.decode(found.value, type=Candidate)
                leader = Leader(candidate, found.create_revision)
            if leader != self._leader:
                self._leader = leader
                self._leader_since = asyncio.get_running_loop().time()
            self._moved.notify_all()

    async def _vacant(self) -> None:
        """Wait until the key is known to be absent."""
        async with self._moved:
            await self._moved.wait_for(
                lambda: self._known_revision > 0 and self._leader is None
            )

    # -- campaigning and leading

    async def _campaign(self, lead: Callable[[int], Awaitable[None]]) -> None:
        held = await grant(self._store, self._settings.lease)
        try:
            epoch = await self._acquire(held)
            if epoch and held.valid:
                await self._lead(lead, held, epoch)
        finally:
            self._epoch, self._held = 0, None
            await held.revoke()

    async def _acquire(self, held: HeldLease) -> int:
        """Create the key; the epoch if it is ours, 0 if somebody was faster."""
        try:
            async with asyncio.timeout_at(held.until):
                try:
                    await self._store.txn(
                        (kv.CreateRevisionIs(self._key, 0),),
                        (kv.Put(self._key, json.encode(self._me), held.id),),
                    )
                except kv.OutcomeUnknown:
                    _log.info("outcome of the campaign unknown, reading it back")
                found = await self._store.range(self._key)
        except TimeoutError as error:
            raise errors.Unavailable("the store did not answer a campaign in time") from error
        holder = found.kvs[0] if found.kvs else None
        await self._learn(holder, found.revision)
        if holder is None or holder.lease != held.id:
            return 0
        return holder.create_revision

    async def _lead(
        self, lead: Callable[[int], Awaitable[None]], held: HeldLease, epoch: int
    ) -> None:
        self._epoch, self._held = epoch, held
        _log.info("leading", epoch=epoch)
        async with asyncio.TaskGroup() as group:
            acting = group.create_task(_awaited(lead(epoch)), name="lead")
            keeping = group.create_task(held.keep(), name="leader lease")
            ousted = group.create_task(self._ousted(epoch), name="leader key")
            try:
                await asyncio.wait(
                    (acting, keeping, ousted), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                # From here on `fence` refuses, before anything of `lead` runs again.
                self._epoch = 0
                for task in (acting, keeping, ousted):
                    task.cancel()
        ended = (task for task in (keeping, ousted) if not task.cancelled())
        reason = next((task.result() for task in ended), "the leader's work ended")
        _log.info("no longer leading", epoch=epoch, reason=reason)

    async def _ousted(self, epoch: int) -> str:
        async with self._moved:
            await self._moved.wait_for(
                lambda: (
                    self._known_revision >= epoch
                    and (self._leader is None or self._leader.epoch != epoch)
                )
            )
        return "the leader key is no longer ours"

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.retry * self._rng.uniform(0.5, 1.5))

    # -- early takeover

    async def take_over(self, observed: int) -> bool:
        """Remove a leader that looks dead, if the key still is the one of epoch `observed`.

        True if that made the office vacant; the campaign, ours or another's, follows by
        itself. False if the key has moved meanwhile, or if this comes too soon after earlier
        takeovers, which then are likelier to be our own bad link than dead leaders. Raises
        `Unavailable`, also `OutcomeUnknown`, after which calling again is safe.
        """
        now = asyncio.get_running_loop().time()
        if not observed or self.epoch or now < self._no_takeover_before:
            return False
        if self._leader is not None and now - self._leader_since > self._settings.settled:
            self._takeovers = 0
        # While the store itself is without a leader this raises `Unavailable`: that must not
        # count as an attempt, or the pause would outlast the store's own election.
        try:
            async with asyncio.timeout(self._settings.attempt):
                result = await self._store.txn(
                    (kv.CreateRevisionIs(self._key, observed),), (kv.DeleteRange(self._key),)
                )
        except TimeoutError as error:
            raise kv.OutcomeUnknown("the store did not answer a takeover in time") from error
        pause = self._settings.takeover_pause * 2**self._takeovers * self._rng.uniform(0.5, 1.5)
        self._no_takeover_before = now + min(pause, self._settings.takeover_cap)
        self._takeovers += 1
        if result.succeeded:
            await self._learn(None, result.revision)
        return result.succeeded


async def _awaited(work: Awaitable[None]) -> None:
    """An awaitable as the coroutine that a TaskGroup wants."""
    await work
