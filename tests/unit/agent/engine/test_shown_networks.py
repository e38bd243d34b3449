"""The networks of a container as `docker inspect` and the filter of `docker ps` know them."""

from datetime import UTC, datetime

from agent.engine.records import Record, State
from agent.engine.shown_networks import Networks, default_interface, identities, places, shape
from agent.network.desired import Attachment, Endpoint, Interface
from shoal.model.container import ContainerConfig, HostConfig

ON_RED = Interface(
    network="red1",
    name="eth0",
    addresses=("10.0.1.3/24", "fd01::3/64"),
    mac="02:42:0a:00:01:03",
)
ON_MESH = Interface(
    network="mesh", name="eth1", addresses=("10.129.0.2/24",), gateways=("10.129.0.1",)
)
LOCAL = {"bridge": "b1", "host": "h1", "none": "n1"}


def record(*interfaces: Interface, running: bool = True) -> Record:
    attachments = tuple(
        Attachment(network=each.network, aliases=("web",) if each is ON_RED else ())
        for each in interfaces
    )
    return Record(
        id="c" * 64,
        name="web.1.t",
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        image_id="sha256:i",
        config=ContainerConfig(image="demo", hostname="cccccccccccc"),
        host_config=HostConfig(),
        state=State(status="running" if running else "exited"),
        network="mesh",
        attachments=attachments,
        endpoint=Endpoint(container="c" * 64, interfaces=interfaces),
    )


def known(*, published: bool = False) -> Networks:
    return Networks(local=LOCAL, names={"red1": "red"}, published=published)


def test_a_tasks_networks_are_shown_by_name() -> None:
    shown = shape(record(ON_RED, ON_MESH), known())
    assert list(shown) == ["red"]
    assert shown["red"] | {"EndpointID": ""} == {
        "IPAMConfig": {"IPv4Address": "10.0.1.3", "IPv6Address": "fd01::3"},
        "Links": None,
        "Aliases": ["web"],
        "MacAddress": "02:42:0a:00:01:03",
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": "red1",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "10.0.1.3",
        "IPPrefixLen": 24,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "fd01::3",
        "GlobalIPv6PrefixLen": 64,
        "DNSNames": ["web.1.t", "web", "cccccccccccc"],
    }
    assert len(shown["red"]["EndpointID"]) == 64


def test_published_ports_show_as_ingress_and_no_network_at_all_as_bridge() -> None:
    assert list(shape(record(ON_RED, ON_MESH), known(published=True))) == ["red", "ingress"]
    assert list(shape(record(ON_MESH), known(published=True))) == ["ingress"]
    assert list(shape(record(ON_MESH), known())) == ["bridge"]
    assert default_interface(record(ON_MESH), known()).ipv4 == "10.129.0.2"
    assert default_interface(record(ON_RED, ON_MESH), known()).ipv4 == ""


def test_one_that_does_not_run_has_networks_but_no_addresses() -> None:
    shown = shape(record(ON_RED, ON_MESH, running=False), known())
    assert (shown["red"]["IPAddress"], shown["red"]["EndpointID"]) == ("", "")


def test_a_filter_may_name_them_by_id() -> None:
    found = places(record(ON_RED, ON_MESH), known(published=True))
    assert identities(found) == ["red", "red1", "ingress"]
    assert identities(places(record(ON_MESH), known())) == ["bridge", "b1"]
