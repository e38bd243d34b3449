"""The joining listener: the one door for hosts that have no certificate yet.

HTTPS without a client certificate, two calls: the roots, and signing for a token. Everybody
can reach it, so all is bounded: connections in all and per address, the handshake, the life
of a connection, the body, and the requests of an address per second. What the answers mean
for the cluster is the backend's (the store); the CA's own module signs.
"""

import asyncio
import hashlib
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from msgspec import Struct
from typing_extensions import override

from manager.ca.authority import requested_key
from shoal.common.certificates import Role
from shoal.common.clock import Clock
from shoal.common.identity import CurrentIdentity
from shoal.common.join_wire import (
    CERTIFICATES_PATH,
    MAX_REQUEST_BYTES,
    ROOTS_PATH,
    CertificateAnswer,
    CertificateRequest,
    Roots,
    refusal_of,
)
from shoal.common.rate_limit import Rate, RateLimit
from shoal.common.tls import joining_context
from shoal.model.errors import (
    ClusterError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from shoal.model.ids import NodeID
from shoal.model.states import Availability

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger(__name__)


class Applicant(Struct, frozen=True, kw_only=True):
    """A host whose token was good. `key_digest` (SHA-256, hex) tells a repeated request."""

    role: Role
    hostname: str
    address: str
    key_digest: str
    availability: str = "active"


class Signed(Struct, frozen=True, kw_only=True):
    """A node's certificate and all it needs to be a member."""

    certificate_pem: bytes
    roots_pem: bytes
    managers: tuple[str, ...]


class JoiningBackend(Protocol):
    """What joining needs of the cluster."""

    async def roots_pem(self) -> bytes:
        """The roots in force, the one of the tokens among them."""
        ...

    async def role_of(self, token: str) -> Role:
        """The role the token grants, compared in constant time; Unauthenticated if none.

        Unavailable when the tokens cannot be read (no quorum, cluster locked).
        """
        ...

    async def register(self, applicant: Applicant) -> NodeID:
        """Create the node, or return the one made for the same key digest before.

        A repeated request (the answer was lost) must not leave a second node behind.
        """
        ...

    async def sign(self, csr_pem: bytes, node_id: NodeID) -> Signed:
        """A certificate for a registered node, in its role, for its address."""
        ...


class Limits(Struct, frozen=True, kw_only=True):
    """What strangers may use. Seconds and counts."""

    connections: int = 256
    connections_per_address: int = 32
    handshake: float = 5.0
    connection_life: float = 20.0
    request: float = 15.0
    rate: Rate = Rate()


class JoiningListener:
    """One listening socket, open while `run` runs."""

    def __init__(
        self,
        backend: JoiningBackend,
        current: CurrentIdentity,
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._limits = limits if limits is not None else Limits()
        self._rates = RateLimit(self._limits.rate)
        self._context = joining_context(current)
        self._open: Counter[str] = Counter()

    async def run(
        self, address: str, port: int, listening: "asyncio.Future[int] | None" = None
    ) -> None:
        """Listen and serve for ever; `listening` gets the port (0: any) once it is open.

        Unavailable when somebody else holds the port.
        """
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=2.0,
            lingering_time=0.0,
        )
        listener = _listen(address, port)
        await runner.setup()
        try:
            if listening is not None:
                listening.set_result(listener.getsockname()[1])
            async with asyncio.TaskGroup() as connections:
                await self._accept(listener, runner, connections)
        finally:
            listener.close()
            await runner.cleanup()

    async def _accept(
        self, listener: socket.socket, runner: web.AppRunner, connections: asyncio.TaskGroup
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, source = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the caller went away
                _log.warning("joiner not accepted", reason=str(error))
                await asyncio.sleep(0.1)
                continue
            caller = str(source[0])
            if not self._has_room(caller):
                _log.debug("joiner turned away", address=caller)
                connection.close()
                continue
            self._open[caller] += 1
            connections.create_task(
                self._serve(connection, caller, runner), name=f"joiner {caller}"
            )

    def _has_room(self, caller: str) -> bool:
        return (
            self._open.total() < self._limits.connections
            and self._open[caller] < self._limits.connections_per_address
        )

    async def _serve(
        self, connection: socket.socket, caller: str, runner: web.AppRunner
    ) -> None:
        """One connection from handshake to end, within its life."""
        server = runner.server
        if server is None:
            raise Internal("the joining listener is not set up")
        protocol = _Watched(server())
        try:
            async with asyncio.timeout(self._limits.connection_life):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=self._limits.handshake,
                    ssl_shutdown_timeout=1.0,
                )
                await protocol.ended.wait()
        except TimeoutError:
            _log.info("joiner too slow", address=caller)
        except (OSError, ssl.SSLError) as error:
            _log.debug("joiner gone", address=caller, reason=str(error))
        finally:
            protocol.abort()
            connection.close()
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

    def _application(self) -> web.Application:
        application = web.Application(
            client_max_size=MAX_REQUEST_BYTES, middlewares=[self._guard]
        )
        application.router.add_get(ROOTS_PATH, self._roots)
        application.router.add_post(CERTIFICATES_PATH, self._certificate)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Rate, deadline, and errors to bodies: this listener's transport edge."""
        try:
            self._count(_source(request))
            async with asyncio.timeout(self._limits.request):
                return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            error: ClusterError = InvalidArgument(
                f"the request is larger than {MAX_REQUEST_BYTES} bytes"
            )
        except web.HTTPException as refusal:
            return refusal
        except TimeoutError:
            error = Unavailable("the cluster did not answer in time; try again")
        except ClusterError as known:
            error = known
        except Exception:  # noqa: BLE001 - a transport edge; logged with its trace
            _log.exception("joining failed", address=_source(request))
            error = Internal("joining failed inside the manager; its log says why")
        _log.info("joiner refused", address=_source(request), reason=str(error))
        status, body = refusal_of(error)
        return web.Response(status=status, body=body, content_type="application/json")

    def _count(self, caller: str) -> None:
        wait = self._rates.take(caller, self._clock.monotonic())
        if wait:
            raise ResourceExhausted(
                f"too many requests from {caller}; try again in {max(1, round(wait))} s"
            )

    async def _roots(self, _request: web.Request) -> web.StreamResponse:
        roots = await self._backend.roots_pem()
        return _json(Roots(roots=roots.decode()))

    async def _certificate(self, request: web.Request) -> web.StreamResponse:
        body = _decoded(await request.read())
        role = await self._backend.role_of(body.token)
        csr_pem = body.csr.encode()
        applicant = Applicant(
            role=role,
            hostname=_hostname(body.hostname),
            address=_address(body.address or _source(request)),
            key_digest=_key_digest(csr_pem),
            availability=_availability(body.availability),
        )
        node_id = await self._backend.register(applicant)
        signed = await self._backend.sign(csr_pem, node_id)
        _log.info(
            "node joined",
            node=node_id,
            role=role,
            host=applicant.hostname,
            address=applicant.address,
        )
        return _json(
            CertificateAnswer(
                certificate=signed.certificate_pem.decode(),
                roots=signed.roots_pem.decode(),
                managers=signed.managers,
            )
        )


class _Watched(asyncio.Protocol):
    """aiohttp's protocol for one connection, plus an event for its end."""

    def __init__(self, inner: web.RequestHandler) -> None:
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self.ended = asyncio.Event()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._inner.connection_made(transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    @override
    def eof_received(self) -> None:
        self._inner.eof_received()

    @override
    def pause_writing(self) -> None:
        self._inner.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._inner.resume_writing()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self._inner.connection_lost(exc)
        self.ended.set()

    def abort(self) -> None:
        """Drop the connection if it still stands."""
        if self._transport is not None and not self.ended.is_set():
            self._transport.abort()


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen for joining nodes on {address}:{port}: {error.strerror}"
        ) from error
    return listener


def _json(body: Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _source(request: web.Request) -> str:
    return request.remote or ""


def _decoded(body: bytes) -> CertificateRequest:
    try:
        return msgspec.json.decode(body, type=CertificateRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the request cannot be read: {error}") from error


def _hostname(given: str) -> str:
    if not given or len(given) > 255 or not given.isprintable():
        raise InvalidArgument("the host name must have 1 to 255 characters", field="hostname")
    return given


def _address(given: str) -> str:
    try:
        return str(ipaddress.ip_address(given))
    except ValueError as error:
        raise InvalidArgument(
            f"the advertised address {given!r} is not an IP address", field="AdvertiseAddr"
        ) from error


def _availability(given: str) -> str:
    """Empty as the Engine API may leave it means active."""
    known = [each.value for each in Availability]
    if given and given not in known:
        raise InvalidArgument(
            f'invalid Availability: "{given}" (active, pause or drain)', field="Availability"
        )
    return given or Availability.ACTIVE.value


def _key_digest(csr_pem: bytes) -> str:
    key = requested_key(csr_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(key).hexdigest()
