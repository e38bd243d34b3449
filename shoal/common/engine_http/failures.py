"""Our error classes as HTTP statuses with Docker's error body: one of the two total maps.

The other is `shoal.common.rpc`. Called by `server` at the edge.
"""

import msgspec
from aiohttp import web

from shoal.common.sentences import presentable
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

STATUS: dict[type[ClusterError], int] = {
    InvalidArgument: 400,
    FailedPrecondition: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NotFound: 404,
    AlreadyExists: 409,
    Conflict: 409,
    OutOfSequence: 500,  # as Swarm answers it; clients look for its sentence
    ResourceExhausted: 500,  # gRPC's code has no status of its own in Docker's map
    Internal: 500,
    Unimplemented: 501,
    Unavailable: 503,
}


def status_of(error: ClusterError) -> int:
    """The HTTP status of an error; a class outside the table counts by its nearest ancestor."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_of(status: int, sentence: str) -> ClusterError:
    """The error that another server of the API answered with."""
    for kind, answered in STATUS.items():
        if answered == status and kind is not FailedPrecondition:
            return kind(sentence)
    return Internal(sentence)


def error_response(status: int, sentence: str) -> web.Response:
    """A reply as Docker words failures."""
    return web.Response(
        status=status,
        body=msgspec.json.encode({"message": presentable(sentence)}) + b"\n",
        content_type="application/json",
    )


def respond(error: ClusterError) -> web.Response:
    """The reply to a request that failed with one of our errors."""
    response = error_response(status_of(error), str(error))
    if isinstance(error, Unavailable) and error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return response
