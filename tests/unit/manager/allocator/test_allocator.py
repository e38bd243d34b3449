"""Published ports, node subnets, and the tasks that wait for them."""

from msgspec.structs import replace

from manager.allocator import allocate, ports, subnets
from shoal.model.changes import NOTHING, Decision
from shoal.model.objects import Cluster, Endpoint, Node, Service, StoredObject
from shoal.model.spec.service import PortConfig
from shoal.model.states import TaskState as S
from tests.builders import (
    Ids,
    at,
    make_cluster,
    make_node,
    make_service,
    make_spec,
    make_task,
    tables,
    updated,
)


def port(published: int = 0, target: int = 80, **more: str) -> PortConfig:
    return PortConfig(target_port=target, published_port=published, **more)


def filled(published: int, target: int = 80, protocol: str = "tcp") -> PortConfig:
    return port(published, target, protocol=protocol, publish_mode="ingress")


def service(
    name: str, *wanted: PortConfig, has: tuple[PortConfig, ...] | None = None
) -> Service:
    """A service that wants ports, and has some already (then they are what it wanted)."""
    spec = make_spec(name=name, ports=wanted)
    endpoint = Endpoint()
    if has is not None:
        assert spec.endpoint_spec is not None
        endpoint = Endpoint(spec=spec.endpoint_spec, ports=has)
    return make_service(name, spec, endpoint=endpoint)


def decided(name: str, *things: StoredObject) -> tuple[PortConfig, ...] | None:
    found = updated(ports.decide(tables(*things), name, at(0), Ids()), Service)
    return found[name].endpoint.ports if found else None


def test_nothing_to_publish() -> None:
    assert decided("s1") is None
    assert decided("s1", make_service()) is None
    assert decided("a", service("a", port(), has=(filled(30000),))) is None


def test_an_explicit_port_is_taken_and_spelled_out() -> None:
    assert decided("a", service("a", port(8080))) == (filled(8080),)


def test_an_automatic_port_is_the_lowest_that_nobody_has_or_asks_for() -> None:
    taken = service("b", port(), port(0, 81), has=(filled(30000), filled(30002, 81)))
    wants = service("a", port(0, 1), port(0, 2), port(30001, 3))
    assert decided("a", taken, wants) == (filled(30003, 1), filled(30004, 2), filled(30001, 3))


def test_protocols_have_their_own_numbers() -> None:
    taken = service("b", port(), has=(filled(30000),))
    assert decided("a", taken, service("a", port(protocol="udp"))) == (
        filled(30000, protocol="udp"),
    )


def test_ports_of_the_host_are_not_the_allocators() -> None:
    host = port(8080, publish_mode="host")
    taken = service("b", host, has=(replace(host, protocol="tcp"),))
    wants = service("a", host, port(8080, 81))
    assert decided("a", taken, wants) == (replace(host, protocol="tcp"), filled(8080, 81))


def test_a_number_is_kept_through_an_update() -> None:
    before = service("a", port(0, 80), port(0, 81), has=(filled(30005), filled(30000, 81)))
    again = make_spec(name="a", ports=(port(0, 81), port(0, 82), port(0, 80)))
    changed = replace(before, spec=again)
    assert decided("a", changed) == (filled(30000, 81), filled(30001, 82), filled(30005))


def test_a_number_that_was_chosen_by_hand_or_is_taken_is_not_kept() -> None:
    by_hand = replace(
        service("a", port(99), has=(filled(99),)), spec=make_spec(ports=(port(),))
    )
    assert decided("a", by_hand) == (filled(30000),)
    lost = replace(
        service("a", port(), has=(filled(30001),)), spec=make_spec(ports=(port(0), port(0, 9)))
    )
    other = service("b", port(30001), has=(filled(30001),))
    assert decided("a", lost, other) == (filled(30000), filled(30002, 9))


def test_a_port_that_another_has_is_waited_for_with_all_the_others() -> None:
    taken = service("b", port(80), has=(filled(80),))
    wants = service("a", port(), port(80, 81))
    assert decided("a", taken, wants) is None
    said = ports.why_unallocated(tables(taken, wants), wants)
    assert said == "port 80/tcp is already published by service b"
    assert ports.why_unallocated(tables(taken), taken) is None
    assert ports.why_unallocated(tables(wants), wants) is None, "they are there to be had"


def test_a_pool_that_is_used_up_says_so() -> None:
    numbers = range(ports.FIRST_AUTOMATIC, ports.LAST_AUTOMATIC + 1)
    everything = tuple(filled(number, number) for number in numbers)
    holder = service("b", *(port(0, number) for number in numbers), has=everything)
    wants = service("a", port(0, 9000))
    said = ports.why_unallocated(tables(holder, wants), wants)
    assert said is not None
    assert said.startswith("no free tcp port for target port 9000: all of 30000 to 32767")


def test_published_are_the_ingress_ports_that_have_a_number() -> None:
    host = port(8080, publish_mode="host")
    endpoint = Endpoint(ports=(filled(80), host, port(0)))
    assert list(ports.published(endpoint)) == [filled(80)]


# -- tasks that wait for them ------------------------------------------------------------------


def passed_on(*things: StoredObject) -> Decision:
    return allocate.decide(tables(*things), "a", at(5), Ids())


def test_new_tasks_become_pending() -> None:
    owner = service("a")
    new = make_task("t1", owner, state=S.NEW, node=None)
    other = make_task("t2", owner, state=S.PENDING, node=None)
    unwanted = make_task("t3", owner, state=S.NEW, node=None, desired_state=S.SHUTDOWN)
    tasks = updated(passed_on(owner, new, other, unwanted))
    assert list(tasks) == ["t1"]
    assert (tasks["t1"].status.state, tasks["t1"].status.err) == (S.PENDING, "")
    assert passed_on(owner, other) == NOTHING
    assert passed_on(new) == NOTHING


def test_tasks_whose_ports_are_not_to_be_had_say_why_once() -> None:
    taken, wants = service("b", port(80), has=(filled(80),)), service("a", port(80))
    new = make_task("t1", wants, state=S.NEW, node=None)
    task = updated(passed_on(taken, wants, new))["t1"]
    assert task.status.state is S.NEW
    assert task.status.err == "port 80/tcp is already published by service b"
    assert passed_on(taken, wants, task) == NOTHING
    assert updated(passed_on(wants, task))["t1"].status.state is S.PENDING


# -- subnets -----------------------------------------------------------------------------------


def given(cluster: Cluster | None, *nodes: Node) -> dict[str, str]:
    things: list[StoredObject] = [*nodes, *([cluster] if cluster is not None else [])]
    decision = subnets.decide(tables(*things), "", at(0), Ids())
    return {name: node.subnet for name, node in updated(decision, Node).items()}


def test_each_node_gets_the_lowest_free_subnet_and_keeps_it() -> None:
    pool = make_cluster(node_pool="10.128.0.0/9")
    nodes = [make_node("n1", subnet=""), make_node("n2", subnet="10.128.0.0/24")]
    assert given(pool, *nodes, make_node("n3", subnet="")) == {
        "n1": "10.129.0.0/24",
        "n3": "10.129.1.0/24",
    }, "the lowest above the services' own share"
    assert given(pool, nodes[1]) == {}
    assert given(None, nodes[0]) == {}


def test_a_pool_that_is_used_up_or_too_small_gives_none() -> None:
    small = make_cluster(node_pool="10.1.0.0/23")
    nodes = [make_node(f"n{n}", subnet="") for n in (1, 2, 3)]
    assert given(small, *nodes) == {"n1": "10.1.1.0/24"}
    assert given(make_cluster(node_pool="10.1.0.0/25"), *nodes) == {}
    assert given(make_cluster(node_pool="fd00::/32"), *nodes) == {}
