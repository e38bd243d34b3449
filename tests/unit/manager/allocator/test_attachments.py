from typing import Any

import pytest

from manager.allocator import attachments
from manager.loops.table import TABLE
from manager.store.tables import Tables
from shoal.model.changes import Delete, Event
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import Attached, Node, Task, TaskStatus
from shoal.model.spec.network import IPAMConfig
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import NodeState, TaskState
from tests.unit.manager.allocator.clusters import (
    IDS,
    NOW,
    allocated,
    decided,
    network,
    service,
    tables,
    task,
)

N1 = NodeID("n1")


def container(name: str, on: str = "a", *addresses: str, **more: Any) -> Task:
    """A person's container on n1 that wants to be on a network."""
    return Task(
        id=TaskID(name),
        service_id=ServiceID(""),
        spec_version=0,
        service_spec=ServiceSpec(),
        node_id=N1,
        status=TaskStatus(state=TaskState.NEW),
        attached=Attached(
            network_id=NetworkID(on),
            container_id=name * 8,
            container_name=name,
            addresses=addresses,
        ),
        **more,
    )


def placed(view: Tables, *names: str) -> list[Task]:
    for name in names:
        decided(view, attachments.decide(view, name, NOW, IDS))
    return [found for name in names if (found := view.task(TaskID(name))) is not None]


def dual(**more: Any) -> Tables:
    subnets = (
        IPAMConfig(subnet="10.5.0.0/24", gateway="10.5.0.1", ip_range="10.5.0.128/25", **more),
        IPAMConfig(subnet="fd05::/64"),
    )
    net = network("a", config=subnets, enable_ipv6=True, attachable=True)
    web = service("web", "a")
    return allocated(tables(net, web, task(web, "t1")))


def test_any_address_of_each_family_and_the_place_at_once() -> None:
    view = dual()
    view.put(container("c1"))
    (found,) = placed(view, "c1")
    assert found.status.state is TaskState.ASSIGNED
    (place,) = found.networks
    assert place.addresses == ("10.5.0.130/24", "fd05::4/64")  # after VIP and task
    assert found.node_id == N1
    assert attachments.decide(view, "c1", NOW, IDS).groups == ()


def test_wanted_addresses_are_given_outside_of_the_range_too() -> None:
    view = dual()
    view.put(container("c1", "a", "10.5.0.7", "fd05::77"))
    (found,) = placed(view, "c1")
    assert found.networks[0].addresses == ("10.5.0.7/24", "fd05::77/64")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("10.6.0.7", "address 10.6.0.7 is not in subnet 10.5.0.0/24 of network a"),
        ("10.5.0.1", "address 10.5.0.1 of network a is reserved"),
        ("10.5.0.255", "address 10.5.0.255 of network a is reserved"),
        ("10.5.0.9", "address 10.5.0.9 of network a is reserved"),
        ("10.5.0.128", "address 10.5.0.128 of network a is already in use by service web"),
        ("10.5.0.129", "address 10.5.0.129 of network a is already in use by task web.0.t1"),
    ],
)
def test_an_address_that_is_not_to_be_had_is_refused_with_the_reason(
    address: str, sentence: str
) -> None:
    view = dual(auxiliary_addresses={"router": "10.5.0.9"})
    view.put(container("c1", "a", address))
    (found,) = placed(view, "c1")
    assert found.status.err.replace("None", "0") == sentence
    assert (found.status.state, found.networks) == (TaskState.NEW, ())


def test_two_containers_never_get_one_address() -> None:
    view = dual()
    for name in ("c1", "c2"):
        view.put(container(name, "a", "10.5.0.7"))
    first, second = placed(view, "c1", "c2")
    assert first.networks
    assert second.status.err.endswith("already in use by container c1")


def test_a_family_that_the_network_has_not_is_refused() -> None:
    view = allocated(tables(network("a", "10.5.0.0/24")))
    view.put(container("c1", "a", "fd05::5"))
    (found,) = placed(view, "c1")
    assert found.status.err == "network a has no IPv6 subnet for address fd05::5"


def test_an_exhausted_network_says_so_and_a_free_address_wakes_who_waits() -> None:
    view = allocated(tables(network("a", "10.5.0.0/30")))
    for name in ("c1", "c2"):
        view.put(container(name))
    first, second = placed(view, "c1", "c2")
    assert first.networks
    assert "no free address in network a" in second.status.err
    row = next(row for row in TABLE if row.name == "attachments")
    gone = view.drop("c1")
    assert list(row.wakes(Event(before=gone, after=None), view)) == ["c1", "c2"]
    (second,) = placed(view, "c2")
    assert second.networks[0].addresses == ("10.5.0.2/30",)


def test_nobody_else_looks_at_containers() -> None:
    view = dual()
    view.put(Node(id=N1, state=NodeState.DOWN, down_since=NOW.replace(year=2020)))
    view.put(container("c1"))
    placed(view, "c1")
    assert [one.id for one in view.attached_tasks()] == ["c1"]
    assert not [one for one in view.pending_tasks() if one.attached]
    assert view.totals(N1).tasks == 0
    for row in TABLE:
        for key in row.all_keys(view):
            for group in row.decide(view, key, NOW, IDS).groups:
                assert "c1" not in [change.object.id for change in group.changes], row.name


def test_a_removed_node_lets_its_containers_go() -> None:
    view = dual()
    view.put(container("c1"))
    placed(view, "c1")
    row = next(row for row in TABLE if row.name == "orphans")
    (group,) = row.decide(view, N1, NOW, IDS).groups
    assert [type(change) for change in group.changes] == [Delete]
