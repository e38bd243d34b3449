"""Subnets of a user's network: as asked, or free ones, always the same ones."""

from typing import Any

import msgspec
import pytest

from agent.engine.subnetting import pools_of
from agent.network.local import Pool
from shoal.model.errors import PermissionDenied, ResourceExhausted
from shoal.model.names import fold_keys
from shoal.model.spec.network import NetworkSpec


def spec(*subnets: str, **more: Any) -> NetworkSpec:
    config = [{"Subnet": each} for each in subnets]
    body = {"Name": "red", "IPAM": {"Config": config}} | more
    return msgspec.convert(fold_keys(body, NetworkSpec), NetworkSpec)


def test_the_first_free_subnet_is_taken() -> None:
    (pool,) = pools_of(spec(), "red", ["172.17.0.0/16"], ["172.18.5.1/24", "10.0.0.0/8"])
    assert pool == Pool(subnet="172.19.0.0/16", gateway="172.19.0.1")


def test_after_the_large_ones_come_small_ones_and_then_a_sentence() -> None:
    large = ["172.16.0.0/12"]
    assert pools_of(spec(), "red", large, [])[0].subnet == "192.168.0.0/20"
    with pytest.raises(ResourceExhausted, match="--subnet"):
        pools_of(spec(), "red", large, ["192.168.0.0/16"])


def test_ipv6_follows_from_the_name() -> None:
    first = pools_of(spec(EnableIPv6=True), "red", [], [])
    assert [each.network.version for each in first] == [4, 6]
    assert first[1].network.is_private
    assert first == pools_of(spec(EnableIPv6=True), "red", [], [])
    assert first[1] != pools_of(spec(EnableIPv6=True), "blue", [], [])[1]


def test_what_is_asked_for_is_kept_and_reserved_addresses_are_nobodys() -> None:
    config = {
        "Subnet": "10.5.0.0/24",
        "IPRange": "10.5.0.128/25",
        "AuxiliaryAddresses": {"router": "10.5.0.1"},
    }
    (pool,) = pools_of(spec(IPAM={"Config": [config]}), "red", [], [])
    assert pool == Pool(
        subnet="10.5.0.0/24",
        gateway="10.5.0.2",
        within="10.5.0.128/25",
        reserved=("10.5.0.1",),
    )


@pytest.mark.parametrize("others", [(["10.5.0.0/16"], []), ([], ["10.5.0.9/24"])])
def test_a_subnet_of_others_is_refused(others: tuple[list[str], list[str]]) -> None:
    with pytest.raises(PermissionDenied, match=r"Pool overlaps.*10\.5\.0\.0/24"):
        pools_of(spec("10.5.0.0/24"), "red", *others)


def test_a_macvlan_network_lies_where_its_parent_does() -> None:
    made = pools_of(spec("10.5.0.0/24", Driver="macvlan"), "red", [], ["10.5.0.9/24"])
    assert made[0].subnet == "10.5.0.0/24"
