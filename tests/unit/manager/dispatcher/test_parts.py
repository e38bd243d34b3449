"""A network's part after changes is as if it were made at once, and changes cost themselves."""

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from manager.dispatcher.networks import NetworkParts
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import Attached, NetworkAttachment, Task, TaskStatus
from shoal.model.states import NodeState, TaskState
from tests.unit.manager.allocator.clusters import network, service
from tests.unit.manager.dispatcher.test_networks import N1, N2, N3, Told, node, small

MINE = Attached(container_id="c" * 64, container_name="mine", network_id=NetworkID("a"))
NETWORKS = (NetworkID("a"), NetworkID("b"))
steps = st.one_of(
    st.tuples(
        st.just("task"),
        st.integers(1, 4),
        st.sampled_from(["s1", "s2", "gone", ""]),
        st.sampled_from([N1, N2, N3]),
        st.sampled_from([TaskState.ASSIGNED, TaskState.RUNNING, TaskState.SHUTDOWN]),
        st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
    ),
    st.tuples(st.just("no task"), st.integers(1, 4)),
    st.tuples(
        st.just("service"), st.sampled_from(["s1", "s2"]), st.sampled_from([(), ("a",), ("b",)])
    ),
    st.tuples(st.just("no service"), st.sampled_from(["s1", "s2"])),
    st.tuples(st.just("node"), st.sampled_from([N1, N2]), st.sampled_from(list(NodeState))),
    st.tuples(st.just("look")),
)


LEAVES: list[tuple[object, ...]] = [
    ("service", "s1", ("a",)),
    ("task", 1, "s1", N1, TaskState.RUNNING, ("a",)),
    ("service", "s1", ()),
    ("task", 1, "s1", N1, TaskState.SHUTDOWN, ("a",)),
]
"""A service leaves a network, and then its last task there ends."""
ANOTHERS: list[tuple[object, ...]] = [
    ("task", 1, "s1", N1, TaskState.ASSIGNED, ("a",)),
    ("task", 1, "s2", N1, TaskState.ASSIGNED, ("a",)),
]
"""A task is another service's than before, and nothing else of it changes."""


def do(cluster: Told, step: tuple[object, ...]) -> None:
    match step:
        case ("task", int(number), str(of), str(on), TaskState() as state, tuple(names)):
            cluster.put(made(number, of, NodeID(on), state, names))
        case ("no task", int(number)):
            remove(cluster, f"t{number}")
        case ("service", str(name), tuple(names)):
            cluster.put(service(name, *names))
        case ("no service", str(name)):
            remove(cluster, name)
        case ("node", str(name), NodeState() as state):
            cluster.put(msgspec.structs.replace(node(NodeID(name)), state=state))
        case _:
            look(cluster)


def remove(cluster: Told, identity: str) -> None:
    if cluster.view.find(identity) is not None:
        cluster.drop(identity)


def made(number: int, of: str, on: NodeID, state: TaskState, names: tuple[str, ...]) -> Task:
    return Task(
        id=TaskID(f"t{number}"),
        service_id=ServiceID(of),
        spec_version=1,
        service_spec=service(of or "none", *names).spec,
        node_id=on,
        slot=number,
        status=TaskStatus(state=state),
        desired_state=TaskState.RUNNING,
        attached=None if of else MINE,
        networks=tuple(
            NetworkAttachment(network_id=NetworkID(each), addresses=(f"10.64.0.{number}/24",))
            for each in names
        ),
    )


def look(cluster: Told) -> None:
    for identity in NETWORKS:
        part = cluster.parts.of(cluster.view, identity)
        assert part == NetworkParts().of(cluster.view, identity)


@given(taken=st.lists(steps, max_size=25), eager=st.booleans())
@example(taken=LEAVES, eager=True)
@example(taken=ANOTHERS, eager=True)
def test_a_part_after_changes_is_as_if_made_at_once(
    taken: list[tuple[object, ...]], eager: bool
) -> None:
    cluster = Told(network("a"), network("b"))
    look(cluster)
    for step in taken:
        do(cluster, step)
        if eager:
            look(cluster)
    look(cluster)


def test_a_change_of_a_task_makes_nothing_else_anew() -> None:
    cluster = small()
    before = cluster.parts.of(cluster.view, NetworkID("a"))
    cluster.move("t1", TaskState.RUNNING, desired_state=TaskState.SHUTDOWN)
    after = cluster.parts.of(cluster.view, NetworkID("a"))
    assert before is not None
    assert after is not None
    assert after.services is before.services
    assert after.network is before.network
    assert after.endpoints["a/t2"] is before.endpoints["a/t2"]
    assert before.endpoints["a/t1"].serving
    assert not after.endpoints["a/t1"].serving
