"""`KV` on a real etcd, by the raw stubs that aetcd ships, over a channel of our own.

The only module that knows etcd: its messages, its error texts and its oddities end here. It
keeps no state but the channel, and retries nothing: who calls knows whether that is safe. The
composition root opens it with `connect`; starting etcd and its members is `manager.member`'s.

aetcd has no types, so `Any` lives here, between the stubs and the structs of `kv`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from aetcd import rpc

from manager.store import kv
from shoal.model import errors

SOCKET_NAME = "localhost:2379"
"""What etcd 3.4 calls its socket, in its working directory, with `unix://localhost:2379`."""

READ_DEADLINE = 5.0
WRITE_DEADLINE = 8.0  # beyond etcd's own 5 s + two election timeouts, whose answer says more
DEFRAGMENT_DEADLINE = 120.0

_NEEDS_LEADER = (("hasleader", "true"),)
"""Makes a member without a leader refuse at once, for sure undone, and break its watches."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # etcd hangs up on who pings more often than every 5 s
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_CERTAINLY_UNDONE = (
    "failed to connect",
    "etcdserver: no leader",
    "etcdserver: rpc not supported for learner",
    "etcdserver: too many requests",
)


_BY_TEXT: tuple[tuple[str, type[errors.ClusterError]], ...] = (
    ("too many requests", errors.Unavailable),
    ("received message larger than max", errors.InvalidArgument),
    ("unhealthy cluster", errors.FailedPrecondition),
)

_BY_CODE: dict[grpc.StatusCode, type[errors.ClusterError]] = {
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDenied,
}


def unix_target(directory: Path) -> str:
    """The address of the etcd whose working directory this is.

    The kernel limits a socket's path to 107 bytes; gRPC would only say "failed to connect".
    """
    path = str(directory.absolute() / SOCKET_NAME)
    if len(path.encode()) > 107:
        raise errors.InvalidArgument(
            f"the path of etcd's socket, {path}, is longer than the kernel's limit of 107 "
            "bytes: choose a shorter state directory"
        )
    return f"unix:{path}"


@asynccontextmanager
async def connect(
    target: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator["EtcdKV"]:
    """Open a channel: without credentials to our own etcd's socket, with them to any other.

    Returns before there is a connection; the first call finds out.
    """
    channel = (
        grpc.aio.insecure_channel(target, options=_OPTIONS)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
    )
    async with channel:
        yield EtcdKV(channel)


class EtcdKV:
    """See `kv.KV` for what each method promises."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._kv: Any = rpc.KVStub(channel)
        self._lease: Any = rpc.LeaseStub(channel)
        self._watch: Any = rpc.WatchStub(channel)
        self._cluster: Any = rpc.ClusterStub(channel)
        self._maintenance: Any = rpc.MaintenanceStub(channel)
        self._renewals: list[Any] = []  # open streams on which nothing is outstanding

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
        key, end = _bounds(select)
        request = rpc.RangeRequest(
            key=key,
            range_end=end,
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
        )
        if serializable:
            return _range_result(await _read(self._kv.Range, request, metadata=()))
        return _range_result(await _read(self._kv.Range, request))

    async def txn(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...] = (),
    ) -> kv.TxnResult:
        request = rpc.TxnRequest(
            compare=[_compare(compare) for compare in compares],
            success=[_op(op) for op in success],
            failure=[_op(op) for op in failure],
        )
        answer = await _mutate(self._kv.Txn, request)
        return kv.TxnResult(
            answer.succeeded,
            answer.header.revision,
            tuple(_response(response) for response in answer.responses),
        )

    @asynccontextmanager
    async def watch(
        self, select: kv.Selector, *, start_revision: int, prev: bool = False
    ) -> AsyncIterator[kv.Watch]:
        key, end = _bounds(select)
        create = rpc.WatchCreateRequest(
            key=key, range_end=end, start_revision=start_revision, prev_kv=prev, fragment=True
        )
        call = self._watch.Watch(metadata=_NEEDS_LEADER)
        try:
            watch = EtcdWatch(call, start_revision, self.status)
            await watch.open(create)
            yield watch
        finally:
            call.cancel()

    async def lease_grant(self, ttl: int) -> kv.Lease:
        answer = await _mutate(self._lease.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl, ID=0))
        return kv.Lease(answer.ID, answer.TTL)

    async def lease_keepalive(self, lease: int) -> int:
        # A stream is used again only after its answer came: a late answer of an earlier
        # renewal must never be taken for this one's. (Opening one each time took a third of
        # what an idle manager used.)
        call = self._renewal()
        try:
            answer = await _renewed(call, lease)
        except BaseException:
            call.cancel()
            raise
        self._renewals.append(call)
        if answer.TTL <= 0:
            raise kv.LeaseNotFound(lease)
        return int(answer.TTL)

    def _renewal(self) -> Any:
        """A stream that renews leases: an open one, or a new one."""
        while self._renewals:
            if not (call := self._renewals.pop()).done():
                return call
        return self._lease.LeaseKeepAlive(metadata=_NEEDS_LEADER)

    async def lease_revoke(self, lease: int) -> None:
        await _mutate(self._lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease), lease=lease)

    async def lease_time_to_live(self, lease: int) -> kv.LeaseState:
        request = rpc.LeaseTimeToLiveRequest(ID=lease, keys=True)
        answer = await _read(self._lease.LeaseTimeToLive, request, lease=lease)
        if not answer.grantedTTL:
            raise kv.LeaseNotFound(lease)
        return kv.LeaseState(max(answer.TTL, 0), answer.grantedTTL, tuple(sorted(answer.keys)))

    async def compact(self, revision: int) -> None:
        request = rpc.CompactionRequest(revision=revision)
        await _mutate(self._kv.Compact, request, revision=revision)

    async def defragment(self) -> None:
        await _call(
            self._maintenance.Defragment, rpc.DefragmentRequest(), deadline=DEFRAGMENT_DEADLINE
        )

    async def status(self) -> kv.Status:
        answer = await _read(self._maintenance.Status, rpc.StatusRequest(), metadata=())
        return kv.Status(
            member=answer.header.member_id,
            leader=answer.leader,
            raft_term=answer.raftTerm,
            version=answer.version,
            db_size=answer.dbSize,
            db_size_in_use=answer.dbSizeInUse,
            is_learner=answer.isLearner,
        )

    async def member_list(self) -> tuple[kv.Member, ...]:
        answer = await _read(self._cluster.MemberList, rpc.MemberListRequest(), metadata=())
        return tuple(sorted(map(_member, answer.members), key=lambda member: member.id))

    async def member_add_learner(self, peer_urls: tuple[str, ...]) -> kv.Member:
        request = rpc.MemberAddRequest(peerURLs=peer_urls, isLearner=True)
        return _member((await _mutate(self._cluster.MemberAdd, request)).member)

    async def member_promote(self, member: int) -> None:
        await _mutate(self._cluster.MemberPromote, rpc.MemberPromoteRequest(ID=member))

    async def member_remove(self, member: int) -> None:
        await _mutate(self._cluster.MemberRemove, rpc.MemberRemoveRequest(ID=member))

    async def member_update(self, member: int, peer_urls: tuple[str, ...]) -> None:
        request = rpc.MemberUpdateRequest(ID=member, peerURLs=peer_urls)
        await _mutate(self._cluster.MemberUpdate, request)


class EtcdWatch:
    """One watch on a stream of its own, so that nothing else on it can delay or end it."""

    def __init__(
        self, call: Any, start_revision: int, status: Callable[[], Awaitable[kv.Status]]
    ) -> None:
        self._call = call
        self._reached = start_revision - 1
        self._status = status

    async def open(self, create: Any) -> None:
        """Send the request and wait for the server's consent, under a deadline."""
        try:
            async with asyncio.timeout(READ_DEADLINE):
                await self._write(rpc.WatchRequest(create_request=create))
                while not (await self._read()).created:
                    pass
        except TimeoutError as error:
            raise errors.Unavailable("the store did not open a watch in time") from error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> kv.WatchResponse:
        events: list[kv.Event] = []
        while True:
            message = await self._read()
            events.extend(map(_event, message.events))
            if message.fragment:
                continue
            if events:
                self._reached = max(self._reached, events[-1].kv.mod_revision)
            else:
                self._reached = max(self._reached, message.header.revision)
            return kv.WatchResponse(self._reached, tuple(events))

    async def request_progress(self) -> None:
        version = (await self._status()).version
        if not progress_is_sound(version):
            raise errors.Unimplemented(
                f"etcd {version} answers a request for watch progress before it has sent all "
                "events: use 3.4.25 or 3.5.8, or watch the whole keyspace"
            )
        await self._write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))

    async def _write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await _raise_stream_error(self._call, error)

    async def _read(self) -> Any:
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await _raise_stream_error(self._call, error)
        if message is grpc.aio.EOF:
            raise errors.Unavailable("the store ended a watch")
        if message.compact_revision:
            raise kv.Compacted(message.compact_revision)
        if message.canceled:
            reason = message.cancel_reason or "no reason given"
            raise errors.Unavailable(f"the store cancelled a watch: {reason}")
        return message


def progress_is_sound(version: str) -> bool:
    """Whether this etcd's answer to a progress request comes after all events it speaks of."""
    numbers = tuple(int(part) for part in version.split("-")[0].split("."))
    return numbers >= (3, 5, 8) or (3, 4, 25) <= numbers < (3, 5)


# ---- calls and errors
# -------------------------------------------------------------------------


async def _read(
    method: Any,
    request: Any,
    *,
    metadata: tuple[tuple[str, str], ...] = _NEEDS_LEADER,
    lease: int = 0,
) -> Any:
    try:
        return await method(request, timeout=READ_DEADLINE, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise _translated(error, lease=lease, revision=_request_revision(request)) from error


async def _mutate(method: Any, request: Any, *, lease: int = 0, revision: int = 0) -> Any:
    try:
        return await method(request, timeout=WRITE_DEADLINE, metadata=_NEEDS_LEADER)
    except grpc.aio.AioRpcError as error:
        raise _as_mutation(_translated(error, lease=lease, revision=revision)) from error


async def _call(method: Any, request: Any, *, deadline: float) -> Any:
    try:
        return await method(request, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        raise _translated(error) from error


def _request_revision(request: Any) -> int:
    """The revision a request asked for, 0 if its kind has none."""
    return int(getattr(request, "revision", 0))


async def _renewed(call: Any, lease: int) -> Any:
    """One question and its answer on the stream that renews leases."""
    try:
        async with asyncio.timeout(READ_DEADLINE):
            await call.write(rpc.LeaseKeepAliveRequest(ID=lease))
            answer = await call.read()
    except TimeoutError as error:
        raise errors.Unavailable("the store does not answer a renewal") from error
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        await _raise_stream_error(call, error)
    if answer is grpc.aio.EOF:
        raise errors.Unavailable("the store closed the stream that renews leases")
    return answer


async def _raise_stream_error(call: Any, error: BaseException) -> NoReturn:
    """A broken stream reports by `read` or by `write`, whichever is met first."""
    if isinstance(error, grpc.aio.AioRpcError):
        raise _translated(error) from error
    details = await call.details()
    raise errors.Unavailable(f"the store closed a stream: {details}") from error


def _translated(
    error: grpc.aio.AioRpcError, *, lease: int = 0, revision: int = 0
) -> errors.ClusterError:
    """Our error for etcd's, for a call that changes nothing."""
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return kv.LeaseNotFound(lease)
    if error.code() is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return kv.Compacted(revision)
    sentence = f"the store says: {details}"
    for text, by_text in _BY_TEXT:
        if text in details:
            return by_text(sentence)
    return _BY_CODE.get(error.code(), errors.Unavailable)(sentence)


def _as_mutation(error: errors.ClusterError) -> errors.ClusterError:
    """An absent answer to a mutation is an unknown outcome, unless the text rules that out."""
    if type(error) is not errors.Unavailable:
        return error
    sentence = str(error)
    if any(text in sentence for text in _CERTAINLY_UNDONE):
        return error
    return kv.OutcomeUnknown(sentence)


# ---- messages
# ---------------------------------------------------------------------------------


def _bounds(select: kv.Selector) -> tuple[bytes, bytes]:
    """A selector in etcd's terms: no end is one key, an end of NUL is no bound."""
    if isinstance(select, bytes):
        return select, b""
    span = kv.as_span(select)
    return span.start or b"\0", span.end or b"\0"


def _compare(compare: kv.Compare) -> Any:
    match compare:
        case kv.ModRevisionIs(key, revision):
            return rpc.Compare(
                key=key,
                target=rpc.Compare.MOD,
                result=rpc.Compare.EQUAL,
                mod_revision=revision,
            )
        case kv.CreateRevisionIs(select, revision):
            key, end = _bounds(select)
            return rpc.Compare(
                key=key,
                range_end=end,
                target=rpc.Compare.CREATE,
                result=rpc.Compare.EQUAL,
                create_revision=revision,
            )
        case kv.ValueIs(key, value):
            return rpc.Compare(
                key=key, target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=value
            )


def _op(op: kv.Op) -> Any:
    match op:
        case kv.Put(key, value, lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
        case kv.DeleteRange(select):
            key, end = _bounds(select)
            return rpc.RequestOp(
                request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end)
            )
        case kv.Get(select, keys_only, count_only):
            key, end = _bounds(select)
            return rpc.RequestOp(
                request_range=rpc.RangeRequest(
                    key=key, range_end=end, keys_only=keys_only, count_only=count_only
                )
            )


def _response(response: Any) -> kv.Response:
    match response.WhichOneof("response"):
        case "response_put":
            return kv.Written()
        case "response_delete_range":
            return kv.Deleted(response.response_delete_range.deleted)
        case _:
            return _range_result(response.response_range)


def _range_result(answer: Any) -> kv.RangeResult:
    return kv.RangeResult(
        answer.header.revision, tuple(map(_key_value, answer.kvs)), answer.count, answer.more
    )


def _key_value(found: Any) -> kv.KeyValue:
    return kv.KeyValue(
        found.key,
        found.value,
        found.create_revision,
        found.mod_revision,
        found.version,
        found.lease,
    )


def _event(event: Any) -> kv.Event:
    prev = _key_value(event.prev_kv) if event.HasField("prev_kv") else None
    return kv.Event(_key_value(event.kv), deleted=bool(event.type), prev=prev)


def _member(member: Any) -> kv.Member:
    return kv.Member(
        member.ID,
        member.name,
        tuple(member.peerURLs),
        tuple(member.clientURLs),
        member.isLearner,
    )
