"""This host's etcd member: its command line, start, join as a learner, promotion, removal.

The process belongs to the host (`shoal.host`), which starts it for us and keeps it when the
manager restarts. `Member` is the host's own member; `Membership` is what a manager that is in
does for the others: the caller carries its two `Gate` calls to a joiner. Certificates are
`manager.ca`'s, the store's content is `manager.store`'s. Built by `manager.__main__`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import Struct

from manager.store.kv import KV, Status
from manager.store.kv import Member as RaftMember
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.host_control import Reply
from shoal.model.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from shoal.model.ids import ClusterID, NodeID
from shoal.model.objects import ManagerInfo

_log = structlog.get_logger("manager.member")

_CLIENT_URL = "unix://localhost:2379"
_DATA = "data"
_FORCE = "--force-new-cluster"
# Half of Go's usual headroom above what lives: etcd's heap is small, and the host others' too.
# One processor at a time: each of its ticks would wake threads on others that find nothing.
_ENVIRONMENT = {"GOGC": "50", "GOMAXPROCS": "1"}
_START_LIMIT = 30.0
_JOIN_LIMIT = 180.0
_LOOK = 0.02
_ASK_AGAIN = 0.25
# A joiner asks for its promotion four times a second; one that is silent this long is gone.
_LEARNER_PATIENCE = 60.0


class PeerTLS(Struct, frozen=True):
    """Files of etcd's own CA, which no worker's certificate comes from."""

    cert: str
    key: str
    ca: str


class Peer(Struct, frozen=True):
    """A member as `--initial-cluster` names it."""

    name: str
    url: str


class Admission(Struct, frozen=True):
    """A learner's place: its member id, and all members, itself included."""

    member: int
    peers: tuple[Peer, ...]


class Gate(Protocol):
    """What a joiner asks of a manager that is in."""

    async def add_learner(self, name: str, peer_url: str) -> Admission:
        """A place for a member. `Unavailable`, with the reason, while it must wait for one.

        May be asked again after an unknown outcome, or by a joiner that starts over: a learner
        of the same address is replaced. `AlreadyExists` if a voting member has the address.
        """
        ...

    async def promote(self, member: int) -> None:
        """Let it vote; idempotent. `Unavailable` while not in sync, `NotFound` if removed."""
        ...

    async def holds(self, peer_url: str) -> bool:
        """Whether a member, voting or not, has this address."""
        ...


class EtcdHost(Protocol):
    """What a member asks of its host; `shoal.common.host_client.HostControl` is one."""

    async def start_etcd(
        self,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        once: Sequence[str] = (),
    ) -> Reply: ...

    async def stop_etcd(self, *, purge_state: bool) -> Reply: ...

    async def status(self) -> Reply: ...


def peer_url(address: str, port: int) -> str:
    """Where etcd's peers reach the member of a host."""
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"


def manager_info(config: HostConfig, member: int) -> ManagerInfo:
    """Where the manager of this host is found, with its member's id."""
    return ManagerInfo(
        addr=config.manager_address,
        join_addr=f"{config.address}:{config.join_port}",
        member=f"{member:x}",
    )


def etcd_argv(
    config: HostConfig, node: NodeID, cluster: ClusterID, tls: PeerTLS, initial: Sequence[str]
) -> tuple[str, ...]:
    """Etcd's command line. `initial` are the flags that matter for its first start only."""
    url = peer_url(config.address, config.etcd_port)
    return (
        config.etcd,
        f"--name={node}",
        f"--data-dir={_DATA}",
        f"--listen-client-urls={_CLIENT_URL}",
        f"--advertise-client-urls={_CLIENT_URL}",
        f"--listen-peer-urls={url}",
        f"--initial-advertise-peer-urls={url}",
        f"--initial-cluster-token={cluster}",
        f"--peer-cert-file={tls.cert}",
        f"--peer-key-file={tls.key}",
        f"--peer-trusted-ca-file={tls.ca}",
        "--peer-client-cert-auth=true",
        # Its own CA is the proof; a peer's source address may be any of a host's several.
        "--experimental-peer-skip-client-san-verification=true",
        "--max-txn-ops=4096",
        "--max-request-bytes=4194304",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=10m",
        "--quota-backend-bytes=4294967296",
        # Entries since the last snapshot stay in memory; 3.4 would let 100,000 gather.
        "--snapshot-count=10000",
        "--heartbeat-interval=100",
        "--election-timeout=500",
        # A member that hears the others but not their leader must not unseat it.
        "--pre-vote=true",
        "--logger=zap",
        "--log-outputs=stderr",
        "--log-level=warn",
        *initial,
    )


def initial_flags(state: str, peers: Sequence[Peer]) -> tuple[str, ...]:
    """The flags of a first start; `state` is "new" or "existing"."""
    listed = ",".join(f"{peer.name}={peer.url}" for peer in peers)
    return (f"--initial-cluster-state={state}", f"--initial-cluster={listed}")


def removal_refusal(
    members: Sequence[RaftMember], target: int, reachable: Collection[str]
) -> str:
    """Why a member cannot be removed now, or an empty string. `reachable` are member names."""
    voters = [member for member in members if not member.is_learner]
    if target not in {member.id for member in voters}:
        return ""
    rest = [member for member in voters if member.id != target]
    if not rest:
        return "attempting to demote the last manager of the swarm"
    alive = sum(member.name in reachable for member in rest)
    needed = len(rest) // 2 + 1
    if alive >= needed:
        return ""
    return (
        "can't remove member from the raft: this would result in a loss of quorum: "
        f"Removing this node leaves {alive} managers out of {len(voters)}, and the remaining "
        f"{len(rest)} need {needed}. Without a Raft quorum your swarm will be inaccessible"
    )


class Membership:
    """The Raft group seen from a manager that is in: admits, promotes, removes. A `Gate`."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv = kv
        self._clock = clock
        self._heard: dict[int, float] = {}
        # Held across awaits on purpose: Raft drops a change of members that meets another
        # under way, and the caller would learn of it by a timeout. Between managers that
        # remains, and heals: every change may be asked for again.
        self._turn = asyncio.Lock()

    async def add_learner(self, name: str, peer_url: str) -> Admission:
        async with self._turn:
            return await self._add_learner(name, peer_url)

    async def promote(self, member: int) -> None:
        self._heard[member] = self._clock.monotonic()
        try:
            async with self._turn:
                await self._kv.member_promote(member)
        except FailedPrecondition as error:
            if await self._votes(member):
                return
            raise Unavailable(
                f"the joining manager has not caught up yet: {error}", retry_after=_ASK_AGAIN
            ) from error

    async def holds(self, peer_url: str) -> bool:
        return any(peer_url in each.peer_urls for each in await self._kv.member_list())

    async def remove(self, member: int, reachable: Collection[str]) -> None:
        """Remove a member for good; nothing happens if it is gone already.

        `reachable` are the names (node ids) of the managers that answer at this moment.
        `FailedPrecondition` where the rest would have no quorum, `Unavailable` for some
        seconds after one of them came back.
        """
        async with self._turn:
            members = await self._kv.member_list()
            if member not in {each.id for each in members}:
                return
            if refusal := removal_refusal(members, member, reachable):
                raise FailedPrecondition(refusal)
            try:
                await self._kv.member_remove(member)
            except FailedPrecondition as error:
                # The sum is right, so it is etcd's: it counts who was connected for 5 s.
                raise Unavailable(
                    f"the managers have not been connected for long enough to remove one: "
                    f"{error}",
                    retry_after=1.0,
                ) from error
        self._heard.pop(member, None)

    async def find(self, node: NodeID) -> RaftMember:
        """The member of a node; `NotFound` if it has none."""
        for member in await self._kv.member_list():
            if member.name == node:
                return member
        raise NotFound(f"node {node} has no member in the replicated store")

    async def _add_learner(self, name: str, peer_url: str) -> Admission:
        for member in await self._kv.member_list():
            if peer_url in member.peer_urls:
                await self._make_room(member, peer_url)
            elif member.is_learner:
                await self._queue_behind(member)
        try:
            added = await self._kv.member_add_learner((peer_url,))
        except FailedPrecondition as error:
            # Somebody was faster, or a member is away: both pass.
            raise Unavailable(
                f"no manager can join at this moment: {error}", retry_after=1.0
            ) from error
        self._heard[added.id] = self._clock.monotonic()
        members = await self._kv.member_list()
        peers = tuple(_peer(each, added.id, name) for each in members)
        return Admission(added.id, peers)

    async def _make_room(self, member: RaftMember, url: str) -> None:
        if not member.is_learner:
            raise AlreadyExists(
                f"manager {member.name or f'{member.id:x}'} is a member at {url} already: "
                f"demote or remove that node before its host joins again"
            )
        await self._kv.member_remove(member.id)

    async def _queue_behind(self, learner: RaftMember) -> None:
        now = self._clock.monotonic()
        heard = self._heard.setdefault(learner.id, now)
        if now - heard > _LEARNER_PATIENCE:
            _log.warning("silent learner removed", member=f"{learner.id:x}", name=learner.name)
            await self._kv.member_remove(learner.id)
            return
        raise Unavailable(
            f"manager {learner.name or learner.peer_urls[0]} is joining: one joins at a time, "
            f"and this one waits its turn",
            retry_after=_ASK_AGAIN,
        )

    async def _votes(self, member: int) -> bool:
        return any(
            each.id == member and not each.is_learner for each in await self._kv.member_list()
        )


def _peer(member: RaftMember, joiner: int, name: str) -> Peer:
    if member.id == joiner:
        return Peer(name, member.peer_urls[0])
    return Peer(member.name or f"{member.id:x}", member.peer_urls[0])


class Member:
    """The member of this host. `kv` is a client of its own socket, `<state>/etcd/...`.

    Each method may be repeated after a failure or a restart of the manager.
    """

    def __init__(
        self,
        config: HostConfig,
        node: NodeID,
        cluster: ClusterID,
        tls: PeerTLS,
        host: EtcdHost,
        kv: KV,
    ) -> None:
        self._config = config
        self._node = node
        self._cluster = cluster
        self._tls = tls
        self._host = host
        self._kv = kv
        self._url = peer_url(config.address, config.etcd_port)

    @property
    def url(self) -> str:
        """Where its peers reach it."""
        return self._url

    @property
    def has_data(self) -> bool:
        """Whether this host has been a member and was not purged since."""
        return (Path(self._config.state) / "etcd" / _DATA / "member").exists()

    async def create(self) -> Status:
        """Start a cluster of one. Returns when it takes writes."""
        if self.has_data and not (await self._host.status()).etcd_argv:
            raise FailedPrecondition(
                f"{self._config.state}/etcd holds the data of an earlier cluster: leave it "
                f"first, or take it over with `docker swarm init --force-new-cluster`"
            )
        await self._start("new", (Peer(self._node, self._url),))
        return await self._wait(lambda status: status.leader != 0)

    async def start(self) -> Status:
        """Have the member run that this host has: after a restart, or with newer flags.

        Returns when it answers, with or without a quorum; if it is still a learner
        (`is_learner`), go on with `finish_joining`.
        """
        if not self.has_data:
            raise FailedPrecondition(
                f"{self._config.state}/etcd holds no data: this host is no member of the "
                f"replicated store and has to join again"
            )
        await self._run(await self._initial())
        return await self._wait(lambda _: True)

    async def recover(self) -> Status:
        """Make a cluster of one out of this host's data, for when the quorum is lost for good.

        The other members must never come back with theirs.
        """
        if not self.has_data:
            raise FailedPrecondition(
                f"{self._config.state}/etcd holds no data to make a new cluster of"
            )
        await self._run(await self._initial(), once=(_FORCE,))
        status = await self._wait(lambda status: status.leader == status.member)
        members = await self._kv.member_list()
        if members[0].peer_urls != (self._url,):
            await self._kv.member_update(status.member, (self._url,))
        return status

    async def join(self, gate: Gate, say: Callable[[str], None]) -> Status:
        """Become a voting member; returns when this one votes and knows the leader.

        `say` hears why it waits. Data of an earlier membership is deleted: a member that comes
        back under its old identity without all it had acknowledged would break Raft.
        """
        async with self._bounded(say) as tell:
            while True:
                await self._host.stop_etcd(purge_state=True)
                admission = await self._admitted(gate, tell)
                await self._start("existing", admission.peers)
                await self._wait(lambda status: status.member != 0)
                try:
                    return await self._promoted(gate, admission.member, tell)
                except NotFound:
                    tell("the managers have forgotten this one while it joined: once more")

    async def finish_joining(self, gate: Gate, say: Callable[[str], None]) -> Status:
        """What is left of `join` if the manager restarted on the way. `NotFound`: join anew."""
        async with self._bounded(say) as tell:
            status = await self._wait(lambda status: status.member != 0)
            return await self._promoted(gate, status.member, tell)

    async def defragment(self) -> None:
        """Give back free space; this member answers nobody meanwhile: one member at a time."""
        await self._kv.defragment()

    async def stop(self, *, purge_state: bool) -> None:
        """End it in order; with `purge_state` for good, once the others have removed it."""
        await self._host.stop_etcd(purge_state=purge_state)

    async def _start(self, state: str, peers: Sequence[Peer]) -> None:
        await self._run(initial_flags(state, peers))

    async def _run(self, initial: Sequence[str], once: Sequence[str] = ()) -> None:
        argv = etcd_argv(self._config, self._node, self._cluster, self._tls, initial)
        await self._host.start_etcd(argv, _ENVIRONMENT, once)

    async def _initial(self) -> tuple[str, ...]:
        """The first start's flags as the host remembers them, so that nothing seems changed."""
        prefixes = ("--initial-cluster-state=", "--initial-cluster=")
        argv = (await self._host.status()).etcd_argv
        kept = tuple(flag for flag in argv if flag.startswith(prefixes))
        return kept or initial_flags("existing", (Peer(self._node, self._url),))

    async def _admitted(self, gate: Gate, tell: Callable[[str], None]) -> Admission:
        while True:
            try:
                return await gate.add_learner(self._node, self._url)
            except Unavailable as error:
                tell(str(error))
                await asyncio.sleep(error.retry_after or _ASK_AGAIN)

    async def _promoted(self, gate: Gate, member: int, tell: Callable[[str], None]) -> Status:
        while True:
            try:
                await gate.promote(member)
            except Unavailable as error:
                tell(str(error))
                await asyncio.sleep(error.retry_after or _ASK_AGAIN)
            else:
                return await self._wait(lambda s: not s.is_learner and s.leader != 0)

    async def _wait(self, enough: Callable[[Status], bool]) -> Status:
        """Until the member's socket answers, and as wanted."""
        try:
            async with asyncio.timeout(_START_LIMIT):
                while True:
                    try:
                        status = await self._kv.status()
                    except Unavailable:
                        await asyncio.sleep(_LOOK)
                        continue
                    if enough(status):
                        return status
                    await asyncio.sleep(_LOOK)
        except TimeoutError as error:
            raise Unavailable(
                f"etcd on this host was not ready within {_START_LIMIT:.0f} s: the host's log "
                f"has its own words"
            ) from error

    @asynccontextmanager
    async def _bounded(
        self, say: Callable[[str], None]
    ) -> AsyncIterator[Callable[[str], None]]:
        """A limit for joining whose error says what was waited for last."""
        last = "the managers did not answer"

        def tell(sentence: str) -> None:
            nonlocal last
            if sentence != last:
                _log.info("joining waits", reason=sentence)
                say(sentence)
            last = sentence

        try:
            async with asyncio.timeout(_JOIN_LIMIT):
                yield tell
        except TimeoutError as error:
            raise Unavailable(
                f"this manager could not join within {_JOIN_LIMIT:.0f} s: {last}"
            ) from error
