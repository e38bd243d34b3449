"""Which networks a person asked for, and what does not go together."""

from typing import Any

import pytest

from agent.engine.joining import (
    asked_networks,
    check_settings,
    check_sharing,
    kind_of,
    needs_gateway,
    wanted_addresses,
)
from agent.engine.records import Joined, Kind
from shoal.common.engine_http.body import convert
from shoal.model.container import (
    ContainerConfig,
    ContainerCreate,
    EndpointIPAMConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
)
from shoal.model.errors import ClusterError, InvalidArgument

PLAIN = EndpointSettings()
ALIASED = EndpointSettings(aliases=("a",))


def asked(mode: str, *names: str, mac: str = "") -> dict[str, EndpointSettings]:
    host, config = HostConfig(network_mode=mode), ContainerConfig(mac_address=mac)
    networking = NetworkingConfig(endpoints_config=dict.fromkeys(names, ALIASED))
    return dict(asked_networks(kind_of(host, config), host, config, networking))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("default", "joined"),
        ("bridge", "joined"),
        ("red", "joined"),
        ("host", "host"),
        ("none", "none"),
        ("container:x", "container"),
    ],
)
def test_the_mode_says_how(mode: str, kind: Kind) -> None:
    assert kind_of(HostConfig(network_mode=mode), ContainerConfig()) == kind
    without = ContainerConfig(network_disabled=True)
    assert kind_of(HostConfig(network_mode=mode), without) == "none"


def test_the_modes_network_comes_first_and_has_its_settings() -> None:
    assert asked("bridge") == {"bridge": PLAIN}
    assert asked("default", "default") == {"bridge": ALIASED}
    assert list(asked("red", "blue", "red")) == ["red", "blue"]
    assert asked("red", "blue")["red"] == PLAIN
    assert asked("red", "red", mac="02:00:00:00:00:01")["red"] == EndpointSettings(
        aliases=("a",), mac_address="02:00:00:00:00:01"
    )


@pytest.mark.parametrize("mode", ["host", "none", "container:x"])
def test_a_namespace_of_others_goes_with_no_network(mode: str) -> None:
    assert asked(mode) == {}
    with pytest.raises(InvalidArgument, match="cannot be connected"):
        asked(mode, "red")


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("bridge", ALIASED, "aliases are only supported for user-defined"),
        ("red", EndpointSettings(links=("x:y",)), "Links"),
        (
            "red",
            EndpointSettings(driver_opts={"com.docker.network.endpoint.ifname": "b"}),
            "DriverOpts",
        ),
        ("red", EndpointSettings(gw_priority=1), "GwPriority"),
        ("red", EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="::1")), "IPv4"),
        ("red", EndpointSettings(ipam_config=EndpointIPAMConfig(ipv6_address="x")), "IPv6"),
        (
            "bridge",
            EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.1")),
            "user defined networks only",
        ),
    ],
)
def test_settings_that_nothing_follows_are_refused(
    name: str, settings: EndpointSettings, sentence: str
) -> None:
    with pytest.raises(ClusterError, match=sentence):
        check_settings(name, settings)


def test_the_gateway_network_is_there_when_nothing_else_leads_out() -> None:
    wide = Joined(network="w", name="wide", in_cluster=True)
    inner = Joined(network="i", name="inner", in_cluster=True, internal=True)
    own = Joined(network="red", name="red")
    assert needs_gateway([wide], ["bridge", "red"])
    assert needs_gateway([wide, own], ["bridge"])
    assert not needs_gateway([wide, own], ["bridge", "red"])
    assert not needs_gateway([inner], ["bridge"])


def test_wanted_addresses_are_of_both_families() -> None:
    both = EndpointIPAMConfig(ipv4_address="10.0.0.1", ipv6_address="fd00::1")
    assert wanted_addresses(EndpointSettings(ipam_config=both)) == ("10.0.0.1", "fd00::1")
    assert wanted_addresses(PLAIN) == ()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"Hostname": "a"}, "conflicting options: hostname and the network mode"),
        ({"MacAddress": "02:42:00:00:00:01"}, "mac-address and the network mode"),
        ({"ExposedPorts": {"80/tcp": {}}}, "port exposing and the container type network mode"),
        ({"Host": {"Dns": ["192.0.2.1"]}}, "dns and the network mode"),
        (
            {"Host": {"ExtraHosts": ["a:192.0.2.1"]}},
            "custom host-to-IP mapping and the network",
        ),
        (
            {"Host": {"PortBindings": {"80/tcp": [{}]}}},
            "port publishing and the container type",
        ),
        ({"Host": {"PublishAllPorts": True}}, "port publishing and the container type"),
        ({"Host": {"NetworkMode": "container:"}}, "invalid container format"),
    ],
)
def test_the_network_of_another_container_comes_with_all_that_is_its(
    said: dict[str, Any], sentence: str
) -> None:
    host = {"NetworkMode": "container:x", **said.get("Host", {})}
    rest = {key: value for key, value in said.items() if key != "Host"}
    wrong = convert({"Image": "a", "HostConfig": host, **rest}, ContainerCreate)
    with pytest.raises(InvalidArgument, match=sentence):
        check_sharing(wrong)
    fine = convert(
        {"Image": "a", "HostConfig": {**host, "NetworkMode": "red"}, **rest}, ContainerCreate
    )
    check_sharing(fine)
