"""What a joiner and the joining listener say to each other: paths, bodies, errors.

JSON over HTTPS on the port after the managers' gRPC port. `join_client` speaks it on one
side, `manager.joining` on the other.
"""

import ipaddress
from http import HTTPStatus

import msgspec
from msgspec import Struct

from shoal.model import errors
from shoal.model.errors import ClusterError, InvalidArgument, Unavailable

ROOTS_PATH = "/v1/roots"
CERTIFICATES_PATH = "/v1/certificates"
DEFAULT_MANAGER_PORT = 2377
MAX_REQUEST_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 256 * 1024


class Roots(Struct, frozen=True, kw_only=True):
    """Answer of the first call: the root certificates in PEM."""

    roots: str


class CertificateRequest(Struct, frozen=True, kw_only=True):
    """Body of the second call. `address` is where others reach the node; empty: as seen.

    `availability` is the new node's first: active, pause or drain.
    """

    csr: str
    token: str
    hostname: str
    address: str = ""
    availability: str = "active"


class CertificateAnswer(Struct, frozen=True, kw_only=True):
    """Answer of the second call; `managers` are gRPC addresses (`host:port`)."""

    certificate: str
    roots: str
    managers: tuple[str, ...]


class Refusal(Struct, frozen=True, kw_only=True):
    """Body of every error: a class of `shoal.model.errors` by name, and its sentence."""

    kind: str
    message: str
    field: str = ""
    retry_after: float | None = None


STATUS_OF: dict[type[ClusterError], HTTPStatus] = {
    errors.InvalidArgument: HTTPStatus.BAD_REQUEST,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.AlreadyExists: HTTPStatus.CONFLICT,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.OutOfSequence: HTTPStatus.CONFLICT,
    errors.FailedPrecondition: HTTPStatus.PRECONDITION_FAILED,
    errors.PermissionDenied: HTTPStatus.FORBIDDEN,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.ResourceExhausted: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Unimplemented: HTTPStatus.NOT_IMPLEMENTED,
    errors.Internal: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_CLASS_OF: dict[str, type[ClusterError]] = {kind.__name__: kind for kind in STATUS_OF}


def refusal_of(error: ClusterError) -> tuple[HTTPStatus, bytes]:
    """Status and body for an error."""
    status = STATUS_OF.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    body = Refusal(
        kind=type(error).__name__,
        message=str(error),
        field=error.field if isinstance(error, InvalidArgument) else "",
        retry_after=error.retry_after if isinstance(error, Unavailable) else None,
    )
    return status, msgspec.json.encode(body)


def error_of(status: int, body: bytes) -> ClusterError:
    """The error behind a refusal; Internal if the other side does not speak this protocol."""
    try:
        refusal = msgspec.json.decode(body, type=Refusal)
    except msgspec.MsgspecError:
        return errors.Internal(
            f"the manager answered {status} in an unknown form: is this the joining port?"
        )
    kind = _CLASS_OF.get(refusal.kind, errors.Internal)
    if kind is InvalidArgument:
        return InvalidArgument(refusal.message, field=refusal.field)
    if kind is Unavailable:
        return Unavailable(refusal.message, retry_after=refusal.retry_after)
    return kind(refusal.message)


_MEANT = {"RemoteAddrs": "remote", "ListenAddr": "listen"}


def split_address(
    address: str, default_port: int, field: str = "RemoteAddrs"
) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]:port` or a bare IPv6 address."""
    try:
        return str(ipaddress.IPv6Address(address.strip("[]"))), default_port
    except ValueError:
        host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(
            f"invalid {_MEANT[field]} address {address!r}: it must be host or host:port",
            field=field,
        )
    return host, int(port)


def joining_address(manager: str) -> tuple[str, int]:
    """Where to join, given what the user typed: the port after the manager's gRPC port."""
    host, port = split_address(manager, DEFAULT_MANAGER_PORT)
    return host, port + 1
