"""What a network of one host may be asked to be."""

from typing import Any

import msgspec
import pytest

from shoal.model.errors import ClusterError, InvalidArgument, Unimplemented
from shoal.model.names import fold_keys
from shoal.model.spec.network import NetworkSpec
from shoal.model.validate.local_network import (
    BRIDGE_NAME,
    ICC,
    MASQUERADE,
    check_local_network,
    truth,
)

SUBNET = {"Config": [{"Subnet": "10.1.0.0/24"}]}


def spec(**more: Any) -> NetworkSpec:
    body = {"Name": "red", "Driver": "bridge"} | more
    return msgspec.convert(fold_keys(body, NetworkSpec), NetworkSpec)


@pytest.mark.parametrize(
    "more",
    [
        {"Driver": ""},
        {"Options": {ICC: "false", MASQUERADE: "0", "com.docker.network.driver.mtu": "1400"}},
        {"EnableIPv6": True, "Internal": True, "Attachable": True},
        {"Driver": "macvlan", "IPAM": SUBNET, "Options": {"parent": "eth0"}},
        {
            "Driver": "ipvlan",
            "IPAM": SUBNET,
            "Options": {"parent": "eth0", "ipvlan_mode": "l2", "ipvlan_flag": "private"},
        },
    ],
)
def test_what_a_host_makes(more: dict[str, Any]) -> None:
    check_local_network(spec(**more))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"Name": ""}, "Name"),
        ({"Scope": "planet"}, "Scope"),
        ({"Labels": {" ": "x"}}, "Labels"),
        ({"Options": {ICC: "maybe"}}, f"Options.{ICC}"),
        ({"Options": {"other": "x"}}, "Options.other"),
        ({"IPAM": {"Config": [{"Subnet": "10.1.1.1/24"}]}}, "IPAM.Config[0].Subnet"),
        ({"Driver": "macvlan", "IPAM": SUBNET}, "Options.parent"),
        ({"Driver": "macvlan", "Options": {"parent": "eth0"}}, "IPAM.Config"),
        (
            {
                "Driver": "macvlan",
                "IPAM": SUBNET,
                "Options": {"parent": "eth0", "macvlan_mode": "x"},
            },
            "Options.macvlan_mode",
        ),
    ],
)
def test_what_is_wrong_is_named_in_plain_words(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_local_network(spec(**more))
    assert refused.value.field == field
    assert field in str(refused.value)
    assert "rpc error" not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"EnableIPv4": False}, "EnableIPv4"),
        ({"ConfigOnly": True}, "ConfigOnly"),
        ({"Options": {BRIDGE_NAME: "br9"}}, "named by Shoal"),
        (
            {
                "Driver": "ipvlan",
                "IPAM": SUBNET,
                "Options": {"parent": "eth0", "ipvlan_mode": "l3"},
            },
            "only l2",
        ),
    ],
)
def test_what_is_not_there_says_so(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Unimplemented, match=sentence):
        check_local_network(spec(**more))


def test_unknown_drivers_and_predefined_names_are_refused() -> None:
    for more in ({"Driver": "weave"}, {"Name": "docker_gwbridge"}):
        with pytest.raises(ClusterError):
            check_local_network(spec(**more))


def test_switches_have_defaults() -> None:
    assert truth({}, ICC, default=True)
    assert not truth({ICC: "false"}, ICC, default=True)
