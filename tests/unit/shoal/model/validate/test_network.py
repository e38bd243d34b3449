from typing import Any

import msgspec
import pytest

from shoal.model.errors import InvalidArgument, NotFound, PermissionDenied, Unimplemented
from shoal.model.names import fold_keys
from shoal.model.spec.network import NetworkSpec, is_encrypted, mtu_of
from shoal.model.validate.network import check_network

MTU = "com.docker.network.driver.mtu"
IDS = "com.docker.network.driver.overlay.vxlanid_list"


def spec(**more: Any) -> NetworkSpec:
    body = {"Name": "back", "Driver": "overlay", **more}
    return msgspec.convert(fold_keys(body, NetworkSpec), NetworkSpec)


def config(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"Config": list(entries)}


def net(subnet: str = "10.9.0.0/16", **more: Any) -> dict[str, Any]:
    return {"Subnet": subnet, **more}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"Name": ""}, "Name"),
        ({"Name": "-x"}, "Name"),
        ({"Name": "a b"}, "Name"),
        ({"Name": "x" * 201}, "Name"),
        ({"Scope": "local"}, "Scope"),
        ({"Labels": {" ": "x"}}, "Labels"),
        ({"Options": {"dsr": ""}}, "Options.dsr"),
        ({"Options": {"encrypted": "perhaps"}}, "Options.encrypted"),
        ({"Options": {MTU: "x"}}, f"Options.{MTU}"),
        ({"Options": {MTU: "67"}}, f"Options.{MTU}"),
        ({"Options": {MTU: "1279"}, "EnableIPv6": True}, f"Options.{MTU}"),
        ({"Options": {IDS: "4095"}}, f"Options.{IDS}"),
        ({"Options": {IDS: "4096,4097"}}, f"Options.{IDS}"),
        ({"IPAM": {"Options": {"a": "b"}}}, "IPAM.Options"),
        ({"IPAM": config({"Gateway": "10.9.0.1"})}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("10.9.0.1/24"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("garbage"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("10.9.0.0/31"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("10.0.0.0/7"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("224.0.0.0/24"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("127.0.0.0/24"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("fd00::/64"))}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net("::/96")), "EnableIPv6": True}, "IPAM.Config[0].Subnet"),
        ({"IPAM": config(net(), net("10.10.0.0/16"))}, "IPAM.Config[1].Subnet"),
        ({"IPAM": config(net(IPRange="10.8.0.0/24"))}, "IPAM.Config[0].IPRange"),
        ({"IPAM": config(net(IPRange="fd00::/96"))}, "IPAM.Config[0].IPRange"),
        ({"IPAM": config(net(Gateway="10.8.0.1"))}, "IPAM.Config[0].Gateway"),
        ({"IPAM": config(net(Gateway="10.9.0.0"))}, "IPAM.Config[0].Gateway"),
        ({"IPAM": config(net(Gateway="10.9.255.255"))}, "IPAM.Config[0].Gateway"),
        ({"IPAM": config(net(Gateway="x"))}, "IPAM.Config[0].Gateway"),
        (
            {"IPAM": config(net(Gateway="10.9.0.1", AuxiliaryAddresses={"a": "10.9.0.1"}))},
            "IPAM.Config[0].AuxiliaryAddresses.a",
        ),
        ({"Ingress": True, "Attachable": True}, "Attachable"),
        ({"Ingress": True, "Internal": True}, "Internal"),
        ({"Ingress": True, "IPAM": config(net("10.9.0.0/21"))}, "IPAM.Config[0].Subnet"),
        ({"Ingress": True, "IPAM": config(net(Gateway="10.9.0.1"))}, "IPAM.Config[0]"),
    ],
)
def test_a_refusal_names_the_field(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_network(spec(**more))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("more", "kind", "word"),
    [
        ({"Name": "host"}, PermissionDenied, "predefined host network"),
        ({"Driver": "weave"}, NotFound, 'plugin "weave" not found'),
        ({"Driver": "macvlan"}, Unimplemented, "macvlan networks with scope swarm"),
        ({"ConfigOnly": True}, Unimplemented, "ConfigOnly"),
        ({"ConfigFrom": {"Network": "x"}}, Unimplemented, "ConfigFrom"),
        ({"EnableIPv4": False}, Unimplemented, "without IPv4"),
        ({"IPAM": {"Driver": "dhcp"}}, Unimplemented, "dhcp"),
        ({"Ingress": True, "EnableIPv6": True}, Unimplemented, "EnableIPv6"),
        ({"Ingress": True, "Options": {MTU: "1400"}}, Unimplemented, MTU),
    ],
)
def test_what_is_not_there_is_said(
    more: dict[str, Any], kind: type[Exception], word: str
) -> None:
    with pytest.raises(kind, match=word):
        check_network(spec(**more))


def test_the_right_spelling_of_a_subnet_is_said() -> None:
    with pytest.raises(InvalidArgument, match=r"it should be 10\.9\.0\.0/24"):
        check_network(spec(IPAM=config(net("10.9.0.77/24"))))


def test_full_specs_pass() -> None:
    full = spec(
        Name="stack_a.b-c",
        EnableIPv4=True,
        EnableIPv6=True,
        Scope="swarm",
        CheckDuplicate=True,
        Options={"encrypted": "", MTU: "1400", IDS: "4096"},
        IPAM=config(
            net(
                IPRange="10.9.4.0/24",
                Gateway="10.9.0.9",
                AuxiliaryAddresses={"a": "10.9.4.1"},
            ),
            net("fd00:1::/64"),
        ),
    )
    check_network(full)
    assert is_encrypted(full)
    assert mtu_of(full) == 1400
    assert not is_encrypted(spec(Options={"encrypted": "false"}))
    check_network(spec(Ingress=True, IPAM=config(net())))
    check_network(spec(IPAM=config({})))
