"""Which address a host advertises that was told none."""

import pytest

from shoal.common.advertise import Interface, only_one, read_interfaces
from shoal.model.errors import InvalidArgument

ONE = Interface("eth0", ("192.0.2.10",))
OTHER = Interface("eth1", ("198.51.100.10",))


def test_the_only_address_is_taken() -> None:
    assert only_one([ONE]) == "192.0.2.10"


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            [ONE, OTHER],
            (
                "multiple addresses on different interfaces (192.0.2.10 on eth0 and "
                "198.51.100.10 on eth1)"
            ),
        ),
        (
            [Interface("eth0", ("192.0.2.10", "192.0.2.11"))],
            "multiple addresses on interface eth0 (192.0.2.10 and 192.0.2.11)",
        ),
        ([], "could not find the system's IP address"),
    ],
)
def test_where_it_is_unsure_it_asks(found: list[Interface], sentence: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        only_one(found)
    assert sentence in str(refused.value)
    assert refused.value.field == "AdvertiseAddr"


LISTED = b"""[{},
 {"ifname": "eth0", "addr_info": [
   {"family": "inet6", "local": "2001:db8::1"}, {"family": "inet", "local": "192.0.2.10"}]},
 {"ifname": "eth1", "addr_info": [
   {"family": "inet6", "local": "2001:db8:1::2", "temporary": true},
   {"family": "inet6", "local": "2001:db8:1::1"}, {}]},
 {"ifname": "eth2", "addr_info": []},
 {"ifname": "docker0", "addr_info": [{"family": "inet", "local": "172.17.0.1"}]},
 {"ifname": "shoal-l", "addr_info": [{"family": "inet", "local": "172.31.0.1"}]}]"""


def test_interfaces_that_lead_to_other_hosts() -> None:
    assert read_interfaces(LISTED, "shoal") == [ONE, Interface("eth1", ("2001:db8:1::1",))]
    assert read_interfaces(b"", "shoal") == []
