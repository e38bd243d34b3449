"""Objects for tests: each field has a sane default, so that a test names only what it is about.

`Ids` and `at` give ids and instants that read well in a failure. `Cluster`-wide state is put
together with `tables`, which is a `View` and takes changes through a `Draft` as the store does.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from manager.store.draft import Draft
from manager.store.tables import Tables
from shoal.model.changes import Create, Decision, Delete, Update
from shoal.model.ids import ClusterID, NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import (
    Cluster,
    EngineDescription,
    Network,
    Node,
    NodeDescription,
    NodeSession,
    Service,
    StoredObject,
    Task,
    TaskStatus,
)
from shoal.model.spec.network import NetworkSpec
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import (
    EndpointSpec,
    PortConfig,
    Replicated,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.spec.task import (
    ContainerSpec,
    DiscreteResource,
    GenericResource,
    NamedResource,
    Placement,
    Platform,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    TaskSpec,
)
from shoal.model.states import NodeRole, NodeState, TaskState

START = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1 << 30
CPU = 1_000_000_000
SECOND = 1_000_000_000
"""A second in the API's nanoseconds."""

S = TaskState


def at(seconds: float) -> datetime:
    """An instant, in seconds from the tests' beginning of time."""
    return START + timedelta(seconds=seconds)


class Ids:
    """`new1`, `new2`, ...: an `IdSource`."""

    def __init__(self, prefix: str = "new") -> None:
        self._prefix = prefix
        self._last = 0

    def new(self) -> str:
        self._last += 1
        return f"{self._prefix}{self._last:04}"


def make_resources(
    cpus: float = 4, memory: int = 8 * GIB, generic: Mapping[str, int | tuple[str, ...]] = {}
) -> Resources:
    """Amounts; a kind of generic resource has a number or names."""
    return Resources(
        nano_cpus=int(cpus * CPU),
        memory_bytes=memory,
        generic_resources=tuple(
            one for kind, value in generic.items() for one in make_generic(kind, value)
        ),
    )


def make_generic(kind: str, value: int | tuple[str, ...]) -> tuple[GenericResource, ...]:
    if isinstance(value, int):
        discrete = DiscreteResource(kind=kind, value=value)
        return (GenericResource(discrete_resource_spec=discrete),)
    return tuple(
        GenericResource(named_resource_spec=NamedResource(kind=kind, value=name))
        for name in value
    )


def make_node(
    identity: str = "n1",
    *,
    state: NodeState = NodeState.READY,
    availability: str = "active",
    labels: Mapping[str, str] = {},
    engine_labels: Mapping[str, str] = {},
    resources: Resources | None = None,
    platform: Platform | None = None,
    session: bool | None = None,
    role: NodeRole = NodeRole.WORKER,
    **more: Any,
) -> Node:
    """A worker that is ready, active and roomy; its session is there if it is ready."""
    connected = state is NodeState.READY if session is None else session
    fields: dict[str, Any] = {
        "id": NodeID(identity),
        "guard": 1,
        "version": 1,
        "created_at": START,
        "updated_at": START,
        "spec": NodeSpec(labels=labels, availability=availability, role=role.value),
        "role": role,
        "state": state,
        "subnet": f"10.128.{sum(identity.encode()) % 256}.0/24",
        "addr": "10.9.0.1",
        "description": NodeDescription(
            hostname=f"host-{identity}",
            platform=platform or Platform(architecture="x86_64", os="linux"),
            resources=resources or make_resources(),
            engine=EngineDescription(engine_version="28.2.2", labels=engine_labels),
        ),
        "session": NodeSession(manager=NodeID("m1"), session="s1") if connected else None,
    }
    return Node(**{**fields, **more})


def make_spec(
    *,
    name: str = "web",
    image: str = "app:1",
    mode: ServiceMode | None = None,
    replicas: int = 1,
    placement: Placement | None = None,
    reserve: Resources | None = None,
    restart: RestartPolicy | None = None,
    update: UpdateConfig | None = None,
    rollback: UpdateConfig | None = None,
    ports: Iterable[PortConfig] = (),
    labels: Mapping[str, str] = {},
    **container: Any,
) -> ServiceSpec:
    """A replicated service of one container; no restart delay unless `restart` says so."""
    published = tuple(ports)
    return ServiceSpec(
        name=name,
        labels=labels,
        mode=mode or ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(
            container_spec=ContainerSpec(image=image, **container),
            placement=placement,
            restart_policy=restart,
            resources=(
                ResourceRequirements(reservations=reserve) if reserve is not None else None
            ),
        ),
        update_config=update,
        rollback_config=rollback,
        endpoint_spec=EndpointSpec(ports=published) if published else None,
    )


def make_service(identity: str = "s1", spec: ServiceSpec | None = None, **more: Any) -> Service:
    """A service that has what its ports ask for, unless it says otherwise."""
    fields: dict[str, Any] = {
        "id": ServiceID(identity),
        "guard": 1,
        "version": 1,
        "created_at": START,
        "updated_at": START,
        "spec": spec if spec is not None else make_spec(),
    }
    return Service(**{**fields, **more})


def make_task(
    identity: str = "t1",
    service: Service | None = None,
    *,
    state: TaskState = TaskState.RUNNING,
    node: str | None = "n1",
    slot: int = 1,
    since: float = 0,
    created: float = 0,
    err: str = "",
    addresses: tuple[str, ...] = (),
    **more: Any,
) -> Task:
    """A running task of slot 1 on node n1, of the service's present spec.

    `created` and `since` are the seconds at which it was made and reached its state.
    """
    owner = service if service is not None else make_service()
    fields: dict[str, Any] = {
        "id": TaskID(identity),
        "guard": 1,
        "version": 1,
        "service_id": owner.id,
        "spec_version": owner.spec_version,
        "service_spec": owner.spec,
        "created_at": at(created),
        "updated_at": at(created),
        "slot": slot,
        "node_id": NodeID(node) if node is not None else None,
        "status": TaskStatus(
            state=state,
            timestamp=at(since),
            message=state.api_name,
            err=err,
            addresses=addresses,
        ),
    }
    return Task(**{**fields, **more})


def make_network(identity: str = "net1", *, name: str = "back", **more: Any) -> Network:
    """A network that is not allocated yet."""
    return Network(id=NetworkID(identity), spec=NetworkSpec(name=name, **more))


def make_cluster(**more: Any) -> Cluster:
    fields: dict[str, Any] = {"id": ClusterID("c1"), "guard": 1, "version": 1}
    return Cluster(**{**fields, **more})


def tables(*things: StoredObject) -> Tables:
    """A bottom layer with those objects: a `View`."""
    made = Tables()
    for thing in things:
        made.put(thing)
    return made


def settle(below: Tables, decision: Decision) -> Tables:
    """The same tables after all that a decision writes; its own keys checked on the way."""
    for group in decision.groups:
        for change in group.changes:
            there = below.find(change.object.id)
            match change:
                case Create():
                    assert there is None, f"{change.object.id} is there already"
                    below.put(msgspec.structs.replace(change.object, guard=1))
                case Update():
                    assert there is not None, f"{change.object.id} is not there"
                    below.put(change.object)
                case Delete():
                    assert there is not None, f"{change.object.id} is not there"
                    below.drop(change.object.id)
    return below


def after(view: Tables, decision: Decision) -> Draft:
    """A draft with a decision's changes, the tables left as they are."""
    draft = Draft(view)
    for group in decision.groups:
        draft.apply(group.changes)
    return draft


def created(decision: Decision) -> list[Task]:
    """The tasks that a decision makes."""
    return [
        change.object
        for group in decision.groups
        for change in group.changes
        if isinstance(change, Create) and isinstance(change.object, Task)
    ]


def updated(decision: Decision, kind: type = Task) -> dict[str, Any]:
    """The objects of a kind that a decision changes, by id."""
    return {
        str(change.object.id): change.object
        for group in decision.groups
        for change in group.changes
        if isinstance(change, Update) and isinstance(change.object, kind)
    }


def deleted(decision: Decision) -> list[str]:
    """The ids of what a decision deletes."""
    return [
        str(change.object.id)
        for group in decision.groups
        for change in group.changes
        if isinstance(change, Delete)
    ]
