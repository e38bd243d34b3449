"""Each filter's rule and sentence, and how the sentences of many nodes become one."""

import pytest

from manager.scheduler import filters, pipeline
from manager.scheduler.filters import Demand, demand_of
from manager.scheduler.nodeinfo import Load
from manager.store.tables import Tables
from shoal.model.ids import NodeID
from shoal.model.objects import Node
from shoal.model.spec.service import PortConfig, ServiceSpec
from shoal.model.spec.task import Placement, Platform
from shoal.model.states import NodeState
from shoal.model.states import TaskState as S
from tests.builders import (
    GIB,
    at,
    make_generic,
    make_node,
    make_resources,
    make_service,
    make_spec,
    make_task,
    tables,
)

HOST_PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host")


def refusal(
    spec: ServiceSpec, node: Node, view: Tables | None = None, **copies: int
) -> str | None:
    """What the whole pipeline says of one node."""
    demand = demand_of(spec, {NodeID(name): count for name, count in copies.items()})
    load = Load(view if view is not None else tables(node))
    return pipeline.refusal(demand, node, load, pipeline.needed(demand))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, None),
        ({"state": NodeState.DOWN}, "node is down"),
        ({"state": NodeState.UNKNOWN}, "node is unknown"),
        ({"lost_since": at(0)}, "node has lost its session"),
        ({"availability": "pause"}, "node is paused"),
        ({"availability": "drain"}, "node is drained"),
        ({"subnet": ""}, "no free subnet in the cluster's node pool"),
    ],
)
def test_ready(fields: dict[str, object], sentence: str | None) -> None:
    assert refusal(make_spec(), make_node(**fields)) == sentence  # type: ignore[arg-type]


def test_resources_count_what_runs_there() -> None:
    spec = make_spec(reserve=make_resources(2, 5 * GIB))
    service = make_service(spec=spec)
    node = make_node()
    assert refusal(spec, node) is None
    assert refusal(spec, node, tables(node, make_task(service=service))) == "not enough memory"
    stopped = make_task(service=service, state=S.FAILED)
    assert refusal(spec, node, tables(node, stopped)) is None
    greedy = make_spec(reserve=make_resources(5, 0))
    assert refusal(greedy, node) == "not enough CPU"


def test_a_node_that_has_not_described_itself_has_nothing() -> None:
    node = make_node(description=None)
    assert refusal(make_spec(), node) is None
    assert refusal(make_spec(reserve=make_resources(1, 0)), node) == "not enough CPU"


def test_generic_resources_by_number_and_by_name() -> None:
    node = make_node(resources=make_resources(generic={"ssd": 2, "gpu": ("g1", "g2")}))
    spec = make_spec(reserve=make_resources(0, 0, generic={"ssd": 1, "gpu": 2}))
    assert refusal(spec, node) is None
    held = make_task(generic_resources=make_generic("gpu", ("g1",)))
    assert refusal(spec, node, tables(node, held)) == "not enough gpu"
    held = make_task(generic_resources=make_generic("ssd", 2))
    assert refusal(spec, node, tables(node, held)) == "not enough ssd"
    assert refusal(spec, make_node()) == "not enough ssd"


def test_constraints_say_which_one() -> None:
    spec = make_spec(placement=Placement(constraints=("node.labels.disk == ssd",)))
    assert refusal(spec, make_node(labels={"disk": "ssd"})) is None
    assert refusal(spec, make_node()) == "constraint node.labels.disk==ssd"


def test_a_constraint_that_cannot_be_read_matches_no_node() -> None:
    spec = make_spec(placement=Placement(constraints=("nonsense",)))
    sentence = refusal(spec, make_node())
    assert sentence is not None
    assert "needs one of the operators" in sentence


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        (Platform(architecture="amd64", os="linux"), False),
        (Platform(architecture="x86_64", os="Linux"), False),
        (Platform(architecture="amd64"), False),
        (Platform(os="linux"), False),
        (Platform(), False),
        (Platform(architecture="arm64", os="linux"), True),
        (Platform(architecture="amd64", os="windows"), True),
    ],
)
def test_platform(wanted: Platform, refused: bool) -> None:
    spec = make_spec(placement=Placement(platforms=(wanted,)))
    expected = "image is not made for linux/amd64" if refused else None
    assert refusal(spec, make_node()) == expected


def test_one_platform_of_several_is_enough_and_an_unknown_node_has_none() -> None:
    two = Placement(platforms=(Platform(architecture="arm64"), Platform(architecture="amd64")))
    assert refusal(make_spec(placement=two), make_node()) is None
    said = refusal(make_spec(placement=two), make_node(description=None))
    assert said == "image is not made for ?/?"


def test_aarch64_is_arm64() -> None:
    node = make_node(platform=Platform(architecture="aarch64", os="linux"))
    spec = make_spec(placement=Placement(platforms=(Platform(architecture="arm64"),)))
    assert refusal(spec, node) is None


def test_a_host_port_is_taken_until_its_task_has_ended() -> None:
    spec = make_spec(ports=(HOST_PORT,))
    service = make_service(spec=spec)
    node = make_node()
    assert refusal(spec, node) is None
    said = "host-mode port 8080/tcp in use"
    for task in (
        make_task(service=service),
        make_task(service=service, desired_state=S.SHUTDOWN),
    ):
        assert refusal(spec, node, tables(node, task)) == said
    ended = make_task(service=service, desired_state=S.SHUTDOWN, state=S.SHUTDOWN)
    assert refusal(spec, node, tables(node, ended)) is None
    udp = make_spec(
        ports=(
            PortConfig(
                target_port=80, published_port=8080, protocol="udp", publish_mode="host"
            ),
        )
    )
    assert refusal(udp, node, tables(node, make_task(service=service))) is None
    any_port = make_spec(ports=(PortConfig(target_port=80, publish_mode="host"),))
    assert refusal(any_port, node, tables(node, make_task(service=service))) is None


def test_max_replicas_per_node() -> None:
    spec = make_spec(placement=Placement(max_replicas=2))
    assert refusal(spec, make_node(), n1=1) is None
    assert refusal(spec, make_node(), n1=2) == "max replicas per node (2) reached"


def test_filters_that_have_nothing_to_ask_are_left_out() -> None:
    assert pipeline.needed(demand_of(make_spec(), {})) == (filters.ready, filters.subnet)
    full = Demand(
        resources=make_resources(),
        bad="x",
        platforms=(Platform(),),
        host_ports=frozenset({("tcp", 1)}),
        max_replicas=1,
    )
    assert pipeline.needed(full) == filters.FILTERS
    empty = demand_of(make_spec(), {})
    load = Load(tables(make_node()))
    assert all(one(empty, make_node(), load) is None for one in filters.FILTERS)


def test_the_sentence_counts_nodes_by_reason() -> None:
    lacks = ["not enough memory"] * 2 + ["constraint node.labels.disk==ssd"] * 3
    assert pipeline.explain(lacks) == (
        "no suitable node (3 of 5: constraint node.labels.disk==ssd; 2 of 5: not enough memory)"
    )
    assert pipeline.explain(["node is down"]) == "no suitable node (1 of 1: node is down)"
    assert pipeline.explain([]) == "no suitable node (the cluster has no nodes)"
