"""Placement constraints in every form, and what a node has left for a reservation."""

import pytest

from shoal.model.constraints import first_unmet, matches, parse, parse_all, unconstrained
from shoal.model.errors import InvalidArgument
from shoal.model.objects import Node
from shoal.model.resources import (
    Available,
    assign,
    environment_of,
    free_generic,
    generic_of,
    missing,
    reserved,
)
from shoal.model.spec.task import (
    GenericResource,
    Placement,
    Platform,
    ResourceRequirements,
    Resources,
    TaskSpec,
)
from shoal.model.states import NodeRole
from tests.builders import GIB, make_generic, make_node, make_resources

NODE = make_node(
    "abc123",
    labels={"disk": "SSD", "Zone": "a"},
    engine_labels={"storage": "overlay"},
    role=NodeRole.MANAGER,
    platform=Platform(architecture="x86_64", os="linux"),
    addr="10.1.2.3",
)
BARE = make_node("bare", description=None, addr="")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("node.id==abc123", True),
        ("node.id==abc", False),
        ("node.id != other", True),
        ("NODE.ID == ABC123", True),
        ("node.hostname==host-abc123", True),
        ("node.hostname==host*", False),
        ("node.role==manager", True),
        ("node.role != manager", False),
        ("node.platform.os==Linux", True),
        ("node.platform.arch==x86_64", True),
        ("node.platform.arch==amd64", False),
        ("node.labels.disk==ssd", True),
        ("node.labels.Disk==ssd", False),
        ("node.labels.Zone == A", True),
        ("node.labels.none!=x", True),
        ("node.labels.none==x", False),
        ("engine.labels.storage==overlay", True),
        ("engine.labels.storage!=overlay", False),
        ("node.ip==10.1.2.3", True),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip==10.1.2.9/16", True),
        ("node.ip!=10.1.0.0/16", False),
        ("node.ip==10.2.0.0/16", False),
        ("node.ip==fd00::/8", False),
        ("node.ip!=nonsense", False),
        ("node.color==blue", False),
        ("node.color!=blue", False),
        ("node.labels==x", False),
    ],
)
def test_every_form(text: str, fits: bool) -> None:
    assert matches(parse(text), NODE) is fits


def test_a_node_that_has_said_nothing_of_itself() -> None:
    for text in ("node.hostname==x", "engine.labels.a==x", "node.platform.os==linux"):
        assert not matches(parse(text), BARE)
    assert not matches(parse("node.ip==10.1.2.3"), BARE)
    assert matches(parse("node.ip!=10.1.2.3"), BARE)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("node.role", "needs one of the operators == and !="),
        ("node.role=manager", "needs one of the operators"),
        ("node.role>=manager", "needs one of the operators"),
        ("==manager", "key '' is invalid"),
        ("n==manager", "key 'n' is invalid"),
        ("1node==manager", "key '1node' is invalid"),
        ("node role==manager", "key 'node role' is invalid"),
        ("node.role==", "value '' is invalid"),
        ("node.role==ma{nager", "value 'ma{nager' is invalid"),
    ],
)
def test_wrong_ones_say_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert sentence in str(caught.value)
    assert text in str(caught.value)


def test_the_first_operator_counts_and_spaces_are_trimmed() -> None:
    found = parse(" node.labels.a  !=  x y ")
    assert (found.key, found.equal, found.value) == ("node.labels.a", False, "x y")
    assert found.text == "node.labels.a!=x y"


def test_all_must_hold() -> None:
    both = parse_all(("node.role==manager", "node.labels.disk==hdd"))
    unmet = first_unmet(both, NODE)
    assert unmet is not None
    assert unmet.text == "node.labels.disk==hdd"
    assert first_unmet(both[:1], NODE) is None
    assert isinstance(NODE, Node)


def test_templates_that_differ_in_constraints_alone() -> None:
    bare, ruled = TaskSpec(), TaskSpec(placement=Placement(constraints=("a.b==c",)))
    assert unconstrained(bare) == unconstrained(ruled)
    other = TaskSpec(placement=Placement(constraints=("a.b==c",), max_replicas=1))
    assert unconstrained(other) != unconstrained(ruled)


# -- resources ---------------------------------------------------------------------------------


def test_what_a_task_reserves() -> None:
    assert reserved(TaskSpec()) == Resources()
    assert reserved(TaskSpec(resources=ResourceRequirements())) == Resources()
    some = make_resources(1, GIB)
    assert reserved(TaskSpec(resources=ResourceRequirements(reservations=some))) == some


def test_what_is_missing_is_said_in_words() -> None:
    free = Available(nano_cpus=2_000_000_000, memory_bytes=GIB, discrete={"ssd": 1})
    assert missing(make_resources(2, GIB), free) is None
    assert missing(make_resources(3, 0), free) == "not enough CPU"
    assert missing(make_resources(0, GIB + 1), free) == "not enough memory"
    assert missing(make_resources(0, 0, generic={"ssd": 2}), free) == "not enough ssd"
    assert missing(make_resources(0, 0, generic={"fpga": 1}), free) == "not enough fpga"


def test_free_generic_resources_are_what_nobody_holds() -> None:
    has = (
        *make_generic("gpu", ("g2", "g1", "g3")),
        *make_generic("ssd", 3),
        *make_generic("ssd", 1),
    )
    free = free_generic(has, {"ssd": 1, "gone": 5}, {("gpu", "g1"): 1})
    assert free.named == {"gpu": ["g2", "g3"]}
    assert free.discrete == {"ssd": 3}
    assert free_generic((GenericResource(),), {}, {}) == Available()


def test_generic_resources_are_given_by_name_where_there_are_names() -> None:
    free = Available(named={"gpu": ["g1", "g2"]}, discrete={"ssd": 3})
    assert assign((*make_generic("gpu", 2), *make_generic("ssd", 2)), free) == (
        *make_generic("gpu", ("g1", "g2")),
        *make_generic("ssd", 2),
    )
    assert assign(make_generic("gpu", 3), free) is None
    assert assign(make_generic("gpu", ("g2",)), free) == make_generic("gpu", ("g2",))
    assert assign(make_generic("gpu", ("g9",)), free) is None
    twice = (*make_generic("ssd", 2), *make_generic("ssd", 2))
    assert assign(twice, free) is None
    assert free.discrete == {"ssd": 3}, "asking takes nothing"
    assert assign((GenericResource(),), free) == ()


def test_a_host_declares_what_it_has_by_name_or_number() -> None:
    has = generic_of(("gpu=a", "gpu=b", "ssd=3"))
    named = [one.named_resource_spec for one in has if one.named_resource_spec]
    counted = [one.discrete_resource_spec for one in has if one.discrete_resource_spec]
    assert [(one.kind, one.value) for one in named] == [("gpu", "a"), ("gpu", "b")]
    assert [(one.kind, one.value) for one in counted] == [("ssd", 3)]
    assert environment_of(has) == ("DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_SSD=3")
    assert environment_of(()) == ()
