"""The error classes of Shoal, translated at the edges and nowhere else.

    ClusterError
      InvalidArgument(field)     the request is wrong; says which field and what would be right
      NotFound                   no such object
      AlreadyExists              a name or a key is taken
      Conflict                   the object changed since it was read, or its state forbids this
        OutOfSequence            an update with a version that is not the present one
      FailedPrecondition         right request, wrong moment: quorum, in use, not ready
      PermissionDenied           known caller, not allowed
      Unauthenticated            unknown caller: bad token, certificate or key
      ResourceExhausted          a limit or pool is used up
      Unavailable(retry_after)   try again: no quorum, no leader, not part of a cluster
      Unimplemented              not there (yet); says so in a sentence
      Internal                   ours; logged with its trace, a user sees one sentence

Foreign errors (etcd, gRPC, OSError of an adapter) become one of these in the adapter that met
them. The two edges map them on to HTTP statuses (`shoal.common.engine_http`) and gRPC codes
(`shoal.common.rpc`) by total tables.
"""


class ClusterError(Exception):
    """Base of all errors a caller may be shown. `str()` is the sentence for the user."""


class InvalidArgument(ClusterError):
    """A request that is wrong in itself.

    Attributes:
        field: path of the offending field in the request's own spelling,
            e.g. `TaskTemplate.ContainerSpec.Image`.
    """

    def __init__(self, sentence: str, *, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


class NotFound(ClusterError):
    """No such object. The sentence follows Docker's form: `service web not found`."""


class AlreadyExists(ClusterError):
    """The name or key is taken."""


class Conflict(ClusterError):
    """The object was changed meanwhile, or is in a state that does not allow this."""


class OutOfSequence(Conflict):
    """An update of a stale version. Apart from `Conflict`, for Docker answers it with 500."""


class FailedPrecondition(ClusterError):
    """The request is fine, the state of the cluster does not allow it (quorum, in use)."""


class PermissionDenied(ClusterError):
    """The caller is known and not allowed."""


class Unauthenticated(ClusterError):
    """The caller could not prove who it is."""


class ResourceExhausted(ClusterError):
    """A pool or limit is used up."""


class Unavailable(ClusterError):
    """Not now. `retry_after` is in seconds, None where no guess is possible."""

    def __init__(self, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Unimplemented(ClusterError):
    """Not there. The sentence says what is missing and what to use instead, if anything."""


class Internal(ClusterError):
    """Our fault. The details are in the log, the sentence is for the user."""
