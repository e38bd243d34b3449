"""A scheduler pass over a large cluster in memory: 100 more tasks among very many."""

import time
from datetime import UTC, datetime
from typing import Any

from manager.scheduler import schedule as scheduler
from manager.store.draft import Draft
from manager.store.tables import Tables
from shoal.common.entropy import SeededIds
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import Node, NodeDescription, NodeSession, Service, Task, TaskStatus
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import Platform, Resources
from shoal.model.states import NodeState, TaskState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PER_SERVICE = 100


def schedule(tasks: int, nodes: int, more: int, passes: int) -> dict[str, Any]:
    """Milliseconds of a pass that places `more` tasks, over a cluster of that size."""
    ids = SeededIds(1)
    tables = Tables()
    names = [NodeID(ids.new()) for _ in range(nodes)]
    for number, name in enumerate(names):
        tables.put(_node(name, number))
    for number in range(tasks // PER_SERVICE):
        service = _service(ServiceID(ids.new()), number)
        tables.put(service)
        for slot in range(PER_SERVICE):
            where = names[(number * PER_SERVICE + slot) % nodes]
            tables.put(_task(TaskID(ids.new()), service, slot + 1, where))
    service = _service(ServiceID(ids.new()), -1)
    tables.put(service)
    for slot in range(more):
        tables.put(_task(TaskID(ids.new()), service, slot + 1, None))
    times = sorted(_pass(tables, ids) for _ in range(passes))
    return {
        "tasks": tasks,
        "nodes": nodes,
        "placed": more,
        "p50_ms": round(times[len(times) // 2], 2),
        "p99_ms": round(times[int(len(times) * 0.99)], 2),
    }


def _pass(tables: Tables, ids: SeededIds) -> float:
    began = time.perf_counter()
    draft = Draft(tables)
    decision = scheduler.decide(draft, "", NOW, ids)
    for group in decision.groups:
        draft.apply(group.changes)
    return (time.perf_counter() - began) * 1000


def _node(name: NodeID, number: int) -> Node:
    return Node(
        id=name,
        state=NodeState.READY,
        subnet=f"10.{128 + number // 256}.{number % 256}.0/24",
        session=NodeSession(manager=name, session="s"),
        addr="192.0.2.1",
        description=NodeDescription(
            hostname=f"n{number}",
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=10**12, memory_bytes=2**40),
        ),
    )


def _service(identity: ServiceID, number: int) -> Service:
    return Service(id=identity, spec=ServiceSpec(name=f"s{number}"))


def _task(identity: TaskID, service: Service, slot: int, node: NodeID | None) -> Task:
    state = TaskState.PENDING if node is None else TaskState.RUNNING
    return Task(
        id=identity,
        service_id=service.id,
        spec_version=1,
        service_spec=service.spec,
        slot=slot,
        node_id=node,
        status=TaskStatus(state=state, timestamp=NOW),
    )
