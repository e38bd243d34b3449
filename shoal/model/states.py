"""Task, node and update states, and who may make which move.

Task states are ordered with gaps and only move up: of two observations the greater is the truer
(swarmkit `api/types.proto`, `TaskState`). A task is never reused and never changes its node.
"""

from enum import IntEnum, StrEnum


class TaskState(IntEnum):
    """A task's life. Values are Swarm's; the API shows the lower-case name."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def api_name(self) -> str:
        """As the REST API spells it: `running`."""
        return self.name.lower()


TERMINAL_FROM = TaskState.COMPLETE


def is_terminal(state: TaskState) -> bool:
    """Whether the task has ended: it will never run (again)."""
    return state >= TERMINAL_FROM


class Actor(StrEnum):
    """Who writes a state."""

    ORCHESTRATOR = "orchestrator"
    ALLOCATOR = "allocator"
    SCHEDULER = "scheduler"
    AGENT = "agent"
    LEADER = "leader"


# The one owner of each observed state (docker-swarm.md 3.2): ORPHANED is set by the leader for
# a node that has been gone too long, REJECTED by an agent or, before assignment, by the
# enforcer.
OWNER_OF_STATE: dict[TaskState, frozenset[Actor]] = {
    TaskState.NEW: frozenset({Actor.ORCHESTRATOR}),
    TaskState.PENDING: frozenset({Actor.ALLOCATOR}),
    TaskState.ASSIGNED: frozenset({Actor.SCHEDULER}),
    TaskState.ACCEPTED: frozenset({Actor.AGENT}),
    TaskState.PREPARING: frozenset({Actor.AGENT}),
    TaskState.READY: frozenset({Actor.AGENT}),
    TaskState.STARTING: frozenset({Actor.AGENT}),
    TaskState.RUNNING: frozenset({Actor.AGENT}),
    TaskState.COMPLETE: frozenset({Actor.AGENT}),
    TaskState.SHUTDOWN: frozenset({Actor.AGENT, Actor.LEADER}),
    TaskState.FAILED: frozenset({Actor.AGENT}),
    TaskState.REJECTED: frozenset({Actor.AGENT, Actor.LEADER}),
    TaskState.REMOVE: frozenset(),
    TaskState.ORPHANED: frozenset({Actor.LEADER}),
}

# What a task may be asked to reach.
DESIRED_STATES = frozenset(
    {
        TaskState.READY,
        TaskState.RUNNING,
        TaskState.COMPLETE,
        TaskState.SHUTDOWN,
        TaskState.REMOVE,
    }
)


class RotationStep(StrEnum):
    """How far the change of the cluster's CA is: first all trust the next, then it signs."""

    NONE = ""
    TRUST = "trust"
    SIGN = "sign"


class NodeRole(StrEnum):
    """What a node does for the cluster."""

    WORKER = "worker"
    MANAGER = "manager"


class Availability(StrEnum):
    """Whether a node takes tasks: active, keeps them (pause), gives them up (drain)."""

    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeState(StrEnum):
    """Whether a node is heard of."""

    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class Reachability(StrEnum):
    """Whether a manager's store member answers."""

    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"
    REACHABLE = "reachable"


class UpdateState(StrEnum):
    """Where a rolling update or rollback stands."""

    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"


class FailureAction(StrEnum):
    """What a failing update does."""

    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class UpdateOrder(StrEnum):
    """Whether the old task stops before the new one starts, or after."""

    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


class RestartCondition(StrEnum):
    """Which ends of a task are followed by a new one."""

    NONE = "none"
    ON_FAILURE = "on-failure"
    ANY = "any"
