import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.allocator import allocate, subnets, virtual_ips
from manager.allocator.addresses import range_of
from manager.store.draft import Draft
from manager.store.tables import Tables
from shoal.model.changes import Update
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import Network, NetworkPool, Node, Service, Task, TaskStatus
from shoal.model.spec.network import IPAMConfig
from shoal.model.spec.service import PortConfig
from shoal.model.states import TaskState
from tests.unit.manager.allocator.clusters import (
    IDS,
    NOW,
    allocated,
    decided,
    network,
    places,
    recomputed,
    service,
    tables,
    task,
)


def ended(view: Tables, name: str) -> None:
    found = view.task(TaskID(name))
    assert found is not None
    status = TaskStatus(state=TaskState.FAILED)
    view.put(msgspec.structs.replace(found, status=status))


def ips(view: Tables, name: str = "web") -> list[str]:
    found = view.service(ServiceID(name))
    assert found is not None
    return [ip.addr for ip in found.endpoint.virtual_ips]


def test_range_leaves_out_what_is_not_for_tasks() -> None:
    span = range_of("10.9.0.0/24", "", frozenset({"10.9.0.1", "10.9.0.7"}))
    assert span.size == 252
    part = range_of("10.9.0.0/16", "10.9.4.0/24", frozenset({"10.9.0.1", "10.9.4.9"}))
    assert part.size == 255
    assert part.prefix == 16
    assert range_of("fd00::/64", "", frozenset({"fd00::1"})).size == 2**64 - 2


def test_addresses_are_given_once_and_not_again_at_once() -> None:
    web = service("web", "a")
    view = tables(network("a", "10.9.0.0/29"), web, task(web, "t1"), task(web, "t2"))
    allocated(view)
    assert ips(view) == ["10.9.0.2/29"]
    assert places(view, "t1") == ["10.9.0.3/29"]
    assert places(view, "t2") == ["10.9.0.4/29"]
    ended(view, "t1")
    view.put(task(web, "t3"))
    allocated(view)
    assert places(view, "t3") == ["10.9.0.5/29"]
    view.put(task(web, "t4"))
    view.put(task(web, "t5"))
    allocated(view)
    assert places(view, "t4") == ["10.9.0.6/29"]
    assert places(view, "t5") == ["10.9.0.3/29"], "the search begins again at the start"


def test_an_exhausted_range_is_said_and_cured() -> None:
    web = service("web", "a", mode="dnsrr")
    config = IPAMConfig(subnet="10.9.0.0/24", ip_range="10.9.0.8/31")
    view = tables(network("a", config=(config,)), web)
    for name in ("t1", "t2", "t3"):
        view.put(task(web, name))
    allocated(view)
    waiting = view.task(TaskID("t3"))
    assert waiting is not None
    sentence = "no free address in network a (10.9.0.8/31): all 2 are in use"
    assert (waiting.status.err, waiting.networks) == (sentence, ())
    assert view.network_use(NetworkID("a")).waiting == {ServiceID("web"): 1}
    assert not allocate.decide(view, "web", NOW, IDS).groups, "said once"
    ended(view, "t1")
    allocated(view)
    assert places(view, "t3") == ["10.9.0.8/24"]
    assert view.network_use(NetworkID("a")).waiting == {}


def test_a_virtual_ip_that_is_not_to_be_had_holds_the_tasks() -> None:
    web, late = service("web", "a"), service("xlate", "a")
    view = tables(network("a", "10.9.0.0/30"), web, late, task(late, "t"))
    allocated(view)
    assert ips(view) == ["10.9.0.2/30"]
    waiting = view.task(TaskID("t"))
    assert waiting is not None
    assert waiting.status.err == (
        "no free address in network a (10.9.0.0/30): all 1 are in use"
    )
    assert virtual_ips.lacking(view, late)


def test_services_on_both_families_and_on_the_ingress_network() -> None:
    web = service("web", "a", ports=(PortConfig(target_port=80, published_port=80),))
    view = tables(network("a", enable_ipv6=True), network("in", ingress=True), web)
    allocated(view)
    first, four, six = ips(view)
    assert first == "10.128.0.1/9"
    assert four == "10.0.0.2/24"
    assert six.endswith("::2/64")
    plain = service("plain", "a", ports=(PortConfig(target_port=80, publish_mode="host"),))
    view.put(plain)
    allocated(view)
    assert len(ips(view, "plain")) == 2


def test_a_network_that_is_gone_is_said() -> None:
    web = service("web", "nowhere")
    view = allocated(tables(web, task(web, "t")))
    waiting = view.task(TaskID("t"))
    assert waiting is not None
    assert waiting.status.err == "network nowhere was removed"


def test_nodes_subnets_stay_clear_of_the_services_addresses() -> None:
    view = tables(Node(id=NodeID("n1")), Node(id=NodeID("n2"), subnet="10.129.1.0/24"))
    decided(view, subnets.decide(view, "", NOW, IDS))
    assert [node.subnet for node in view.nodes()] == ["10.129.0.0/24", "10.129.1.0/24"]


def test_a_node_changes_over_to_a_new_ingress_pool_once_it_is_empty() -> None:
    web = service("web")
    old = "10.129.1.0/24"
    view = tables(
        Network(
            id=NetworkID("in"),
            spec=network("in", ingress=True).spec,
            pools=(NetworkPool(subnet="172.30.0.0/16"),),
        ),
        Node(id=NodeID("n1"), subnet=old),
        Node(id=NodeID("n2"), subnet="10.129.2.0/24"),
        web,
        task(web, "t", TaskState.RUNNING, node_id=NodeID("n1")),
    )
    decided(view, subnets.decide(view, "", NOW, IDS))
    assert [node.subnet for node in view.nodes()] == [old, "172.30.2.0/24"]
    ended(view, "t")
    decided(view, subnets.decide(view, "", NOW, IDS))
    assert [node.subnet for node in view.nodes()] == ["172.30.3.0/24", "172.30.2.0/24"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["new", "end", "delete", "service", "leave", "gone", "look"]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_never_twice_never_leaked_and_counted_right(steps: list[tuple[str, int]]) -> None:
    view = allocated(tables(network("a", "10.9.0.0/28", enable_ipv6=True), network("b")))
    services = [service(f"s{n}", "a", *(["b"] if n % 2 else [])) for n in range(3)]
    for position, (step, number) in enumerate(steps):
        _take(view, services[number % 3], step, f"t{number}", position)
        drafted = _drafted(view)
        allocated(view)
        for identity in ("a", "b"):
            use = view.network_use(NetworkID(identity))
            expected = recomputed(view, identity)
            assert use.taken == expected.taken == drafted[identity]
            assert use.waiting == expected.waiting
            assert all(count == 1 for count in use.taken.values())


def _take(view: Tables, one: Service, step: str, name: str, position: int) -> None:
    present, found = view.service(one.id), view.task(TaskID(name))
    if step == "service" and present is None:
        view.put(one)
    elif step == "gone":
        view.drop(one.id)
    elif step == "delete":
        view.drop(name)
    elif step == "end" and found is not None:
        ended(view, name)
    elif present is not None:
        _change(view, present, step, name, position)


def _change(view: Tables, present: Service, step: str, name: str, position: int) -> None:
    if step == "new":
        view.put(task(present, name))
    if step == "leave":
        spec = service(present.spec.name).spec
        view.put(msgspec.structs.replace(present, spec=spec, spec_version=position + 2))


def _drafted(view: Tables) -> dict[str, dict[int, int]]:
    """What a draft comes to, which must change nothing below it."""
    before = {key: dict(view.network_use(NetworkID(key)).taken) for key in "ab"}
    draft = Draft(view)
    for row in (virtual_ips, allocate):
        for each in list(draft.services()):
            for group in row.decide(draft, each.id, NOW, IDS).groups:
                draft.apply(group.changes)
    for key in "ab":
        assert view.network_use(NetworkID(key)).taken == before[key]
    return {key: dict(draft.network_use(NetworkID(key)).taken) for key in "ab"}


def test_five_thousand_tasks_on_one_network() -> None:
    count = 5000
    web = service("web", "a")
    view = tables(network("a", "10.64.0.0/16"), web)
    for number in range(count):
        view.put(task(web, f"t{number:05}"))
    allocated(view)
    more = service("xmore", "a")
    view.put(more)
    tasks = [task(more, f"u{number}") for number in range(200)]
    draft = Draft(view)
    draft.apply([Update(one) for one in tasks])
    for row in (virtual_ips, allocate):
        for group in row.decide(draft, more.id, NOW, IDS).groups:
            draft.apply(group.changes)
    held = draft.network_use(NetworkID("a")).taken
    assert len(held) == count + 202
    assert all(isinstance(one, Task) for one in draft.tasks_on_network(NetworkID("a")))
