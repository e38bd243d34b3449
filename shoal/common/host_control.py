"""The words between the host process and its children: one JSON message a SEQPACKET datagram.

A child sends one request at a time and waits for the reply with the same number. Both ends live
on one machine and come from one installation, so there are no versions. Used by the supervisor
and by `shoal.common.host_client`.
"""

import msgspec

# Well under the kernel's default socket buffer (212,992 bytes).
MAX_MESSAGE = 65536
# The kernel passes at most 253 descriptors with a message.
MAX_DESCRIPTORS = 253
# Kept for the agent: two a container.
MAX_KEPT = 8192


class StartManager(msgspec.Struct, frozen=True, tag=True):
    """Run the manager from now on, after a restart of the host too. Idempotent."""


class StopManager(msgspec.Struct, frozen=True, tag=True):
    """End the manager and do not run it again; replied to when it has ended. Idempotent."""


class StartEtcd(msgspec.Struct, frozen=True, tag=True):
    """Run etcd with this command line from now on, after a restart of the host too.

    If it runs with another command line it is ended and started anew. `once` are further flags
    for this one start, never repeated: `--force-new-cluster` must not outlive its purpose.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    once: tuple[str, ...] = ()


class StopEtcd(msgspec.Struct, frozen=True, tag=True):
    """End etcd and do not run it again; with `purge_state` its directory is deleted too."""

    purge_state: bool


class Status(msgspec.Struct, frozen=True, tag=True):
    """Ask for the pids."""


class KeepDescriptor(msgspec.Struct, frozen=True, tag=True):
    """Keep the descriptor sent along under this name, in place of an earlier one.

    What the agent has open in its containers' network namespaces outlives the agent so. A kept
    socket pins its namespace: drop it when the container goes. At most `MAX_KEPT` are kept.
    """

    name: str


class DropDescriptor(msgspec.Struct, frozen=True, tag=True):
    """Close the kept descriptor of this name. Idempotent."""

    name: str


class TakeDescriptors(msgspec.Struct, frozen=True, tag=True):
    """Send copies of the kept descriptors after the name `after`, in the order of names."""

    after: str = ""


Request = (
    StartManager
    | StopManager
    | StartEtcd
    | StopEtcd
    | Status
    | KeepDescriptor
    | DropDescriptor
    | TakeDescriptors
)


class Pids(msgspec.Struct, frozen=True):
    """The processes of a host; None for one that does not run at this moment."""

    host: int
    agent: int | None = None
    manager: int | None = None
    etcd: int | None = None


class Call(msgspec.Struct, frozen=True):
    """A request and its number; a reply that comes after its caller gave up is known by it."""

    number: int
    request: Request


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request.

    Attributes:
        error: a sentence if it was refused, else empty.
        etcd_argv: the command line etcd runs with, empty if it is not to run.
        names: of the descriptors that come with this reply, in their order.
    """

    number: int
    error: str = ""
    pids: Pids
    etcd_argv: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
