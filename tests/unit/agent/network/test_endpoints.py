"""Addresses are given once, in order, and rest before they come again."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.network.endpoints import AddressPool, mac_of
from shoal.model.errors import ResourceExhausted


def test_addresses_come_in_order_and_a_freed_one_comes_last() -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/29"))
    given = [str(pool.allocate(name)) for name in "abc"]
    assert given == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.free(IPv4Address("10.0.0.2"))
    rest = [str(pool.allocate(name)) for name in "def"]
    assert rest == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_exhausted_pool_says_so() -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/30"))
    assert str(pool.gateway) == "10.0.0.1"
    pool.allocate("a")
    with pytest.raises(ResourceExhausted, match=r"no free address in 10\.0\.0\.0/30"):
        pool.allocate("b")


def test_taken_addresses_are_not_given() -> None:
    pool = AddressPool(IPv4Network("10.0.0.0/29"))
    assert pool.take("a", IPv4Address("10.0.0.3"))
    assert pool.take("a", IPv4Address("10.0.0.3"))
    assert not pool.take("b", IPv4Address("10.0.0.3"))
    for foreign in ("10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.1.3"):
        assert not pool.take("b", IPv4Address(foreign))
    others = {str(pool.allocate(f"x{number}")) for number in range(4)}
    assert others == {"10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"}
    assert len(pool) == 5


def test_hardware_address_follows_from_the_address() -> None:
    assert mac_of("172.29.0.2") == "02:42:ac:1d:00:02"
