"""`KV` in memory with etcd's semantics and, on demand, its misfortunes.

`SimulatedEtcd` is the whole cluster, `SimulatedKV` one manager's client of it. Time is the
event loop's own, so virtual time needs nothing (looptime), and chance comes only from the
random source given: the same seed and the same program give the same run. `Faults` is read at
every use, so a simulation turns its knobs while things run. Without faults it is a plain
store, held to the real one's behaviour by `tests/contract/test_kv.py`.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from manager.store import kv
from manager.store.mvcc import Mvcc
from shoal.model import errors

T = TypeVar("T")

WATCH_BATCH = 1000
"""Revisions that etcd puts at most into one response of a watch that catches up."""

Interval = tuple[float, float]


class Faults(Struct):
    """What goes wrong, and how often. Intervals in seconds, the rest probabilities from 0 to 1.

    request, answer: delays of a call on the way there and back.
    lag: delay of a watch's response; all that happens meanwhile arrives with it.
    lease_lag: how long after its end an expired lease is noticed (etcd looks twice a second).
    unavailable: a call is refused, nothing happened.
    lost_request, lost_answer: a mutation is `OutcomeUnknown`; not done, or done.
    late_request: `OutcomeUnknown` now, done after `late` seconds.
    broken_watch: a watch raises `Unavailable` instead of its next response.
    stale: how many revisions a serializable read may be behind.
    """

    request: Interval = (0.0, 0.0)
    answer: Interval = (0.0, 0.0)
    lag: Interval = (0.0, 0.0)
    lease_lag: Interval = (0.0, 0.0)
    unavailable: float = 0.0
    lost_request: float = 0.0
    lost_answer: float = 0.0
    late_request: float = 0.0
    late: Interval = (0.0, 2.0)
    broken_watch: float = 0.0
    stale: int = 0


class _Lease(Struct):
    granted: int
    ends: float
    timer: asyncio.TimerHandle | None = None


class SimulatedEtcd:
    """The cluster: one state, its leases on the loop's time, its members.

    `quorum` False makes every client's linearizable calls and its watches fail, as when most
    members are gone; leases do not end meanwhile, and start anew when it returns, as in etcd.
    """

    def __init__(
        self, rng: random.Random, faults: Faults | None = None, *, max_txn_ops: int = 4096
    ) -> None:
        self.rng = rng
        self.faults = faults or Faults()
        self.state = Mvcc(max_txn_ops=max_txn_ops)
        self.watches: list[SimulatedWatch] = []
        self.members = {1: kv.Member(1, "m1", ("http://m1:2384",), ("unix://m1",))}
        self.learner_ready = True
        self.raft_term = 2
        self._quorum = True
        self._leases: dict[int, _Lease] = {}
        self._last_lease = 0

    def client(self) -> "SimulatedKV":
        """A client of its own, which can be cut off by itself."""
        return SimulatedKV(self)

    @property
    def quorum(self) -> bool:
        return self._quorum

    @quorum.setter
    def quorum(self, there: bool) -> None:
        self._quorum = there
        self.raft_term += there
        for number, lease in self._leases.items():
            if lease.timer is not None:
                lease.timer.cancel()
            if there:
                self._schedule(number, lease)
        self.wake_watches()

    def delay(self, interval: Interval) -> float:
        return self.rng.uniform(*interval) if interval[1] else 0.0

    def hits(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def wake_watches(self) -> None:
        for watch in self.watches:
            watch.wake()

    def expire(self, lease: int) -> None:
        """End a lease now, whatever time it has left."""
        self._end_lease(lease)

    # -- what clients ask; each is done in one step and raises having changed nothing

    def txn(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...],
    ) -> kv.TxnResult:
        result = self.state.txn(compares, success, failure)
        self.wake_watches()
        return result

    def lease_grant(self, ttl: int) -> kv.Lease:
        self._last_lease += 1
        number = 0x694D_0000_0000_0000 + self._last_lease
        lease = self._leases[number] = _Lease(max(ttl, 1), 0.0)
        self.state.lease_attach(number)
        self._schedule(number, lease)
        return kv.Lease(number, lease.granted)

    def lease_keepalive(self, number: int) -> int:
        lease = self._lease(number)
        if lease.timer is not None:
            lease.timer.cancel()
        self._schedule(number, lease)
        return lease.granted

    def lease_revoke(self, number: int) -> None:
        self._lease(number)
        self._end_lease(number)

    def lease_time_to_live(self, number: int) -> kv.LeaseState:
        lease = self._lease(number)
        remaining = max(int(lease.ends - asyncio.get_running_loop().time()), 0)
        return kv.LeaseState(remaining, lease.granted, self.state.lease_keys(number))

    def compact(self, revision: int) -> None:
        self.state.compact(revision)

    def member_add_learner(self, peer_urls: tuple[str, ...]) -> kv.Member:
        if any(member.is_learner for member in self.members.values()):
            raise errors.FailedPrecondition("the store says: too many learner members")
        number = max(self.members) + 1
        member = kv.Member(number, "", peer_urls, (), is_learner=True)
        self.members[number] = member
        return member

    def member_promote(self, number: int) -> None:
        member = self._member(number)
        if not member.is_learner:
            raise errors.FailedPrecondition("the store says: can only promote a learner")
        if not self.learner_ready:
            raise errors.FailedPrecondition("the store says: the learner is not in sync")
        self.members[number] = replace(member, is_learner=False)

    def member_remove(self, number: int) -> None:
        self._member(number)
        del self.members[number]

    def member_update(self, number: int, peer_urls: tuple[str, ...]) -> None:
        self.members[number] = replace(self._member(number), peer_urls=peer_urls)

    def _member(self, number: int) -> kv.Member:
        if number not in self.members:
            raise errors.NotFound("the store says: member not found")
        return self.members[number]

    def _lease(self, number: int) -> _Lease:
        if number not in self._leases:
            raise kv.LeaseNotFound(number)
        return self._leases[number]

    def _schedule(self, number: int, lease: _Lease) -> None:
        loop = asyncio.get_running_loop()
        lease.ends = loop.time() + lease.granted
        noticed = lease.ends + self.delay(self.faults.lease_lag)
        lease.timer = loop.call_at(noticed, self._end_lease, number)

    def _end_lease(self, number: int) -> None:
        lease = self._leases.pop(number, None)
        if lease is None:
            return
        if lease.timer is not None:
            lease.timer.cancel()
        self.state.lease_end(number)
        self.wake_watches()


class SimulatedKV:
    """A client. `reachable` False cuts it off and leaves what was under way unknown.

    `lag` delays the watches of this client alone, beside what delays all.
    """

    def __init__(self, server: SimulatedEtcd) -> None:
        self._server = server
        self.lag: Interval = (0.0, 0.0)
        self._reachable = True

    @property
    def reachable(self) -> bool:
        return self._reachable

    @reachable.setter
    def reachable(self, yes: bool) -> None:
        self._reachable = yes
        self._server.wake_watches()

    async def range(
        self,
        select: kv.Selector,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
    ) -> kv.RangeResult:
        state = self._server.state

        def read() -> kv.RangeResult:
            behind = self._server.rng.randint(0, self._server.faults.stale) * serializable
            past = max(state.revision - behind, state.compacted, 1) if behind else 0
            found = state.range(
                select,
                revision=revision or past,
                limit=limit,
                keys_only=keys_only,
                count_only=count_only,
            )
            return replace(found, revision=past) if past else found

        return await self._ask(read, linearizable=not serializable)

    async def txn(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...] = (),
    ) -> kv.TxnResult:
        return await self._mutate(lambda: self._server.txn(compares, success, failure))

    @asynccontextmanager
    async def watch(
        self, select: kv.Selector, *, start_revision: int, prev: bool = False
    ) -> AsyncIterator[kv.Watch]:
        if select == b"":
            raise errors.InvalidArgument("the store says: key is not provided")
        await self._ask(lambda: None)
        watch = SimulatedWatch(self._server, self, kv.as_span(select), start_revision, prev)
        self._server.watches.append(watch)
        try:
            yield watch
        finally:
            self._server.watches.remove(watch)

    async def lease_grant(self, ttl: int) -> kv.Lease:
        return await self._mutate(lambda: self._server.lease_grant(ttl))

    async def lease_keepalive(self, lease: int) -> int:
        return await self._ask(lambda: self._server.lease_keepalive(lease))

    async def lease_revoke(self, lease: int) -> None:
        await self._mutate(lambda: self._server.lease_revoke(lease))

    async def lease_time_to_live(self, lease: int) -> kv.LeaseState:
        return await self._ask(lambda: self._server.lease_time_to_live(lease))

    async def compact(self, revision: int) -> None:
        await self._mutate(lambda: self._server.compact(revision))

    async def defragment(self) -> None:
        await self._ask(lambda: None, linearizable=False)

    async def status(self) -> kv.Status:
        server = self._server

        def read() -> kv.Status:
            size = server.state.size
            leader = min(server.members) if server.quorum else 0
            return kv.Status(leader, leader, server.raft_term, "3.6.0", size, size, False)

        return await self._ask(read, linearizable=False)

    async def member_list(self) -> tuple[kv.Member, ...]:
        members = self._server.members
        return await self._ask(
            lambda: tuple(members[number] for number in sorted(members)), linearizable=False
        )

    async def member_add_learner(self, peer_urls: tuple[str, ...]) -> kv.Member:
        return await self._mutate(lambda: self._server.member_add_learner(peer_urls))

    async def member_promote(self, member: int) -> None:
        await self._mutate(lambda: self._server.member_promote(member))

    async def member_remove(self, member: int) -> None:
        await self._mutate(lambda: self._server.member_remove(member))

    async def member_update(self, member: int, peer_urls: tuple[str, ...]) -> None:
        await self._mutate(lambda: self._server.member_update(member, peer_urls))

    async def _ask(self, done: Callable[[], T], *, linearizable: bool = True) -> T:
        """A call that may be repeated: there, done, and back."""
        await self._there(linearizable=linearizable)
        result = done()
        await asyncio.sleep(self._server.delay(self._server.faults.answer))
        if not self._reachable:
            raise errors.Unavailable("simulated: cut off before the answer")
        return result

    async def _mutate(self, done: Callable[[], T]) -> T:
        await self._there(linearizable=True)
        server = self._server
        if server.hits(server.faults.lost_request):
            raise kv.OutcomeUnknown("simulated: the request was lost")
        if server.hits(server.faults.late_request):
            late = server.delay(server.faults.late)
            asyncio.get_running_loop().call_later(late, _ignoring_refusal, done)
            raise kv.OutcomeUnknown("simulated: the request is late")
        result = done()
        lost = server.hits(server.faults.lost_answer)
        await asyncio.sleep(server.delay(server.faults.answer))
        if lost or not self._reachable:
            raise kv.OutcomeUnknown("simulated: the answer was lost")
        return result

    async def _there(self, *, linearizable: bool) -> None:
        server = self._server
        await asyncio.sleep(server.delay(server.faults.request))
        if not self._reachable:
            raise errors.Unavailable("simulated: failed to connect")
        if linearizable and not server.quorum:
            raise errors.Unavailable("simulated: no leader")
        if server.hits(server.faults.unavailable):
            raise errors.Unavailable("simulated: refused")


def _ignoring_refusal(done: Callable[[], object]) -> None:
    """A late request that the store refuses: nobody waits for that answer any more."""
    try:
        done()
    except errors.ClusterError:
        return


class SimulatedWatch:
    """A reader of the server's log with a position of its own."""

    def __init__(
        self, server: SimulatedEtcd, client: SimulatedKV, span: kv.Span, start: int, prev: bool
    ) -> None:
        self._server = server
        self._client = client
        self._span = span
        self._next = start
        self._reached = start - 1
        self._prev = prev
        self._woken = asyncio.Event()
        self._progress_wanted = False

    def wake(self) -> None:
        self._woken.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> kv.WatchResponse:
        while True:
            self._raise_if_ended()
            if self._next <= self._server.state.revision:
                response = await self._read()
                if response is not None:
                    return response
            elif self._progress_wanted:
                self._progress_wanted = False
                self._reached = max(self._reached, self._server.state.revision)
                return kv.WatchResponse(self._reached)
            else:
                self._woken.clear()
                await self._woken.wait()

    async def request_progress(self) -> None:
        self._raise_if_ended()
        self._progress_wanted = True
        self.wake()

    def _raise_if_ended(self) -> None:
        if not (self._server.quorum and self._client.reachable):
            raise errors.Unavailable("simulated: the watch lost its leader")
        if self._next < self._server.state.compacted:
            raise kv.Compacted(self._server.state.compacted)

    async def _read(self) -> kv.WatchResponse | None:
        """The next batch after the lag; None if nothing in it was selected."""
        server = self._server
        lag = server.delay(server.faults.lag) + server.delay(self._client.lag)
        if lag:
            await asyncio.sleep(lag)
            self._raise_if_ended()
        if server.hits(server.faults.broken_watch):
            raise errors.Unavailable("simulated: the watch broke")
        batch = server.rng.randint(1, WATCH_BATCH) if lag else WATCH_BATCH
        end = min(server.state.revision + 1, self._next + batch)
        events = tuple(
            event if self._prev else replace(event, prev=None)
            for revision in range(self._next, end)
            for event in server.state.events_at(revision)
            if self._span.holds(event.kv.key)
        )
        self._next = end
        if not events:
            return None
        self._reached = events[-1].kv.mod_revision
        return kv.WatchResponse(self._reached, events)
