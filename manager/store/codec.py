"""Objects to bytes and back: one JSON record a key, readable with `etcdctl get`.

A record is its object without what other writers hold (a task's report, a node's description)
and without what the store itself knows (version, guard). The format version of the cluster is
kept in the cluster object; a record of unknown fields decodes, so a reader of an older format
sees what it knows.
"""

from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from shoal.model.errors import Internal
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import (
    EPOCH,
    Attached,
    NetworkAttachment,
    Node,
    StoredObject,
    Task,
    TaskStatus,
)
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import GenericResource
from shoal.model.states import TaskState

_ENCODER = msgspec.json.Encoder()
T = TypeVar("T")


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A task as the leader writes it: the spec by its version, the status as last known."""

    id: TaskID
    service_id: ServiceID
    spec_version: int
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    slot: int = 0
    node_id: NodeID | None = None
    desired_state: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    networks: tuple[NetworkAttachment, ...] = ()
    generic_resources: tuple[GenericResource, ...] = ()
    job_iteration: int | None = None
    start_after: datetime | None = None
    replaces: TaskID | None = None
    reason: str = ""
    attached: Attached | None = None


_TASK_FIELDS = TaskRecord.__struct_fields__


def encode(value: object) -> bytes:
    """Any struct as its JSON."""
    return _ENCODER.encode(value)


@cache
def _decoder(model: Any) -> Any:
    return msgspec.json.Decoder(model)


def decode(data: bytes, model: type[T]) -> T:
    """The struct of a record; a record that cannot be one is our fault, not the user's."""
    try:
        decoded: T = _decoder(cast("Any", model)).decode(data)
    except msgspec.MsgspecError as error:
        raise Internal(f"a stored {model.__name__} cannot be read: {error}") from error
    return decoded


def encode_object(thing: StoredObject) -> bytes:
    """The record of an object's main key."""
    if isinstance(thing, Task):
        return encode(TaskRecord(**{name: getattr(thing, name) for name in _TASK_FIELDS}))
    bare = msgspec.structs.replace(thing, version=0, guard=0)
    if isinstance(bare, Node):
        bare = msgspec.structs.replace(
            bare,
            description=None,
            addr="",
            data_path_addr="",
            tunnel=(),
            taken_ports=(),
            trust="",
            left=False,
            session=None,
            spec_since=0,
            applied=None,
        )
    return encode(bare)


def join_task(
    record: TaskRecord,
    spec: ServiceSpec,
    report: TaskStatus | None,
    *,
    version: int,
    guard: int,
) -> Task:
    """The whole task. Of two observations the greater is the truer; a tie is the agent's."""
    status = record.status
    if report is not None and report.state >= status.state:
        status = report
    return Task(
        id=record.id,
        service_id=record.service_id,
        spec_version=record.spec_version,
        service_spec=spec,
        version=version,
        guard=guard,
        created_at=record.created_at,
        updated_at=max(record.updated_at, status.timestamp),
        slot=record.slot,
        node_id=record.node_id,
        desired_state=record.desired_state,
        status=status,
        networks=record.networks,
        generic_resources=record.generic_resources,
        job_iteration=record.job_iteration,
        start_after=record.start_after,
        replaces=record.replaces,
        reason=record.reason,
        attached=record.attached,
    )
