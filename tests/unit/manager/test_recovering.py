"""A cluster forced anew: one manager, a new incarnation, all else as it was."""

from manager.recovering import new_incarnation
from shoal.model.changes import Update
from shoal.model.ids import NodeID
from shoal.model.objects import Cluster, ManagerInfo, Node
from shoal.model.spec.node import NodeSpec
from shoal.model.states import NodeRole, NodeState
from tests.builders import at, make_cluster, make_node, make_service, tables

ME = ManagerInfo(addr="10.0.0.1:2377", join_addr="10.0.0.1:2378", member="1")
OTHER = ManagerInfo(addr="10.0.0.2:2377", join_addr="10.0.0.2:2378", member="2")


def manager(name: str, info: ManagerInfo | None) -> Node:
    labels = {"disk": "ssd"}
    return make_node(
        name, role=NodeRole.MANAGER, availability="drain", labels=labels, manager=info
    )


def test_this_manager_alone_is_left_and_the_rest_stays() -> None:
    """Also where it was not in the list yet: it was just being taken in."""
    view = tables(
        make_cluster(incarnation=4),
        manager("m1", None),
        manager("m2", OTHER),
        make_node("w1"),
        make_service(),
    )
    group = new_incarnation(view, NodeID("m1"), ME, at(9))
    changed = {c.object.id: c.object for c in group.changes if isinstance(c, Update)}
    nodes = {key: found for key, found in changed.items() if isinstance(found, Node)}
    (cluster,) = [found for found in changed.values() if isinstance(found, Cluster)]
    assert cluster == make_cluster(incarnation=5, forced_at=at(9))
    assert {key: (n.role.value, n.spec.role, n.manager) for key, n in nodes.items()} == {
        "m1": ("manager", "manager", ME),
        "m2": ("worker", "worker", None),
    }
    assert (nodes["m2"].state, nodes["m2"].down_since) == (NodeState.DOWN, at(9))
    assert "forced anew without" in nodes["m2"].message
    assert nodes["m2"].spec == NodeSpec(
        role="worker", availability="drain", labels={"disk": "ssd"}
    )
