"""gRPC as Shoal uses it: servers and channels over mutual TLS, errors to codes and back.

A server admits a call only if its table of access names the method for the caller's role;
a method not in the table is nobody's. Servicers raise `shoal.model.errors` and never touch
status codes; callers get the same classes back from `unary`. The manager's composition root
builds the server, agents and managers build channels.
"""

from __future__ import annotations  # gRPC's stubs have type parameters, its classes do not

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote

import grpc
import grpc.aio
import structlog
from typing_extensions import override

from shoal.common.certificates import Peer, Role, cluster_role_name
from shoal.common.clock import Clock
from shoal.common.identity import CurrentIdentity, Identity
from shoal.common.sentences import bounded
from shoal.common.tls import grpc_channel_credentials, grpc_server_credentials, peer_of_call
from shoal.model.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfSequence,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

_log = structlog.get_logger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)
Request_contra = TypeVar("Request_contra", contravariant=True)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A complete assignment set of a full node is the largest message."""

EVERY_ROLE = frozenset(Role)
MANAGERS = frozenset({Role.MANAGER})

Access = Mapping[str, frozenset[Role]]
"""Full method name (`/shoal.CA/Renew`) to the roles that may call it."""

CODE_OF: Mapping[type[ClusterError], grpc.StatusCode] = {
    ClusterError: grpc.StatusCode.UNKNOWN,
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Conflict: grpc.StatusCode.ABORTED,
    OutOfSequence: grpc.StatusCode.ABORTED,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    Internal: grpc.StatusCode.INTERNAL,
}

CLASS_OF: Mapping[grpc.StatusCode, type[ClusterError]] = {
    **{code: kind for kind, code in CODE_OF.items() if kind is not OutOfSequence},
    grpc.StatusCode.OK: Internal,
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.DATA_LOSS: Internal,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
}
"""What a code stands for that came without the name of a class: from gRPC itself."""

_KIND = "shoal-kind"
_KINDS: Mapping[str, type[ClusterError]] = {kind.__name__: kind for kind in CODE_OF}
_FIELD = "shoal-field"
_RETRY_AFTER = "shoal-retry-after"

_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS = (
    *_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.so_reuseport", 0),  # a second manager on the port must fail, not share it
)
_CHANNEL_OPTIONS = (
    *_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # a renewed certificate needs a new connection
    ("grpc.enable_http_proxy", 0),
)


_FIELD_LENGTH = 500


def to_status(error: ClusterError) -> tuple[grpc.StatusCode, str, grpc.aio.Metadata]:
    """Code, sentence and trailing metadata of an error."""
    kind = _kind_of(error)
    details = grpc.aio.Metadata((_KIND, kind.__name__))
    if isinstance(error, InvalidArgument) and error.field:
        details.add(_FIELD, quote(error.field[:_FIELD_LENGTH]))
    if isinstance(error, Unavailable) and error.retry_after is not None:
        details.add(_RETRY_AFTER, f"{error.retry_after:g}")
    return CODE_OF[kind], bounded(str(error)), details


def _kind_of(error: ClusterError) -> type[ClusterError]:
    """Its class, or the nearest ancestor that has a code."""
    return next(kind for kind in type(error).__mro__ if kind in CODE_OF)


def from_status(failure: grpc.aio.AioRpcError) -> ClusterError:
    """The error a failed call stands for; unreachable peers and deadlines are Unavailable."""
    details = {key: str(value) for key, value in failure.trailing_metadata() or ()}
    kind = _KINDS.get(details.get(_KIND, ""), CLASS_OF[failure.code()])
    sentence = failure.details() or f"the call failed with {failure.code().name}"
    if kind is InvalidArgument:
        return InvalidArgument(sentence, field=unquote(details.get(_FIELD, "")))
    if kind is Unavailable:
        return Unavailable(sentence, retry_after=_seconds(details.get(_RETRY_AFTER)))
    return kind(sentence)


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


class UnaryMethod(Protocol[Request_contra, Response_co]):
    """A stub's unary method."""

    def __call__(
        self, request: Request_contra, /, *, timeout: float | None = None
    ) -> Awaitable[Response_co]: ...


async def unary(
    method: UnaryMethod[Request, Response], request: Request, *, seconds: float
) -> Response:
    """One call under a deadline that the server sees too; raises our errors only."""
    try:
        return await method(request, timeout=seconds)
    except grpc.aio.AioRpcError as failure:
        raise from_status(failure) from failure


def channel(
    address: str, identity: Identity, server_name: str | None = None
) -> grpc.aio.Channel:
    """A channel to `host:port` with this node's certificate.

    The server must be a manager of the same cluster, or have `server_name` (a node id) in its
    certificate. Make one a peer; make a new one when the identity changes.
    """
    name = server_name or cluster_role_name(Role.MANAGER, identity.cluster_id)
    return grpc.aio.secure_channel(
        address,
        grpc_channel_credentials(identity),
        options=(*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name)),
    )


Admit = Callable[[Peer], None]
"""Raises PermissionDenied for a peer whose certificate is good but which the store disowns.

Asked for calls that not every role may make: a demoted manager must still be able to open its
session and to fetch its worker's certificate, which is how it learns of the demotion.
"""


def server(
    current: CurrentIdentity, access: Access, clock: Clock, admit: Admit | None = None
) -> grpc.aio.Server:
    """A server without ports; add servicers, then `bind`, then start it."""
    return grpc.aio.server(
        interceptors=(_Guard(current, access, clock, admit),), options=_SERVER_OPTIONS
    )


def bind(on: grpc.aio.Server, address: str, current: CurrentIdentity) -> int:
    """Listen on `host:port` (port 0: any) over mutual TLS; the port."""
    try:
        port = on.add_secure_port(address, grpc_server_credentials(current))
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address}: the port is taken") from error
    return port


class _Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler: who calls, may they, and our errors to codes."""

    def __init__(
        self, current: CurrentIdentity, access: Access, clock: Clock, admit: Admit | None
    ) -> None:
        self._current = current
        self._access = access
        self._clock = clock
        self._admit = admit

    @override
    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            Awaitable[grpc.RpcMethodHandler[Request, Response] | None],
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Request, Response] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        return self._wrapped(str(handler_call_details.method), handler)

    def _wrapped(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        make, behaviour = _parts(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _writing(behaviour)
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            self._guarded(method, behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _guarded(self, method: str, behaviour: Any) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                self.check(method, peer_of_call(context))
                return await behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - a transport edge; `_abort` logs
                await _abort(method, context, error)

        return guarded

    def check(self, method: str, peer: Peer) -> None:
        """Raise unless this peer may call this method now."""
        cluster = self._current.get().cluster_id
        if peer.cluster_id != cluster:
            raise Unauthenticated(
                f"node {peer.node_id} belongs to cluster {peer.cluster_id}, not to {cluster}"
            )
        if peer.not_after <= self._clock.now():
            raise Unauthenticated(
                f"the certificate of node {peer.node_id} expired at "
                f"{peer.not_after.isoformat()}; the node must join again"
            )
        allowed = self._access.get(method, frozenset())
        if peer.role not in allowed:
            raise PermissionDenied(
                f"node {peer.node_id} is a {peer.role} and may not call {method}"
            )
        if self._admit is not None and allowed != EVERY_ROLE:
            self._admit(peer)


def _parts(handler: grpc.RpcMethodHandler[Any, Any]) -> tuple[Any, Any]:
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _writing(behaviour: Any) -> Any:
    """A handler that yields, as one that writes: gRPC leaves a generator unclosed on cancel."""

    async def write_all(request: Any, context: Any) -> None:
        async with aclosing(behaviour(request, context)) as items:
            async for item in items:
                await context.write(item)

    return write_all


def _cause(error: Exception) -> Exception:
    """The error of a group that a handler's TaskGroup raised, if all of it is ours."""
    if not isinstance(error, ExceptionGroup):
        return error
    ours, others = error.split(ClusterError)
    if ours is None or others is not None:
        return error
    first: Exception = ours
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first


async def _abort(method: str, context: Any, error: Exception) -> None:
    """End a call with our code; a servicer's own `context.abort` passes."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    error = _cause(error)
    if isinstance(error, ClusterError):
        known = error
        kind = type(error).__name__
        _log.info("call refused", method=method, kind=kind, reason=str(error))
    else:
        _log.error("call failed", method=method, exc_info=error)
        known = Internal(f"{method} failed inside the manager; its log says why")
    code, sentence, details = to_status(known)
    await context.abort(code, sentence, tuple(details))
