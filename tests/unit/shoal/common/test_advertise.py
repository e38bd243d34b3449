"""Which address a host advertises that was told none."""

import re
from pathlib import Path

import pytest

from shoal.common.advertise import (
    Interface,
    Wanted,
    advertised,
    choose,
    forget,
    only_one,
    read_interfaces,
)
from shoal.common.config import HostConfig
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


def chosen(path: Path, **wanted: str) -> HostConfig:
    return choose(HostConfig(state=str(path), address="127.0.0.1"), Wanted(**wanted))


@pytest.mark.parametrize("listen", ["", "0.0.0.0:2377", "0.0.0.0", "127.0.0.1"])
def test_dockers_default_is_the_hosts_own_port(tmp_path: Path, listen: str) -> None:
    host = HostConfig(state=str(tmp_path), address="127.0.0.1", port=3377, join_port=3390)
    config = choose(host, Wanted(listen=listen))
    assert (config.port, config.join_port) == (3377, 3390)
    assert config.listen_address == ("127.0.0.1" if "127" in listen else "")
    assert advertised(host) == config


def test_the_port_asked_for_lasts_until_the_host_leaves(tmp_path: Path) -> None:
    host = HostConfig(state=str(tmp_path), address="192.0.2.10")
    config = choose(host, Wanted(listen="0.0.0.0:14002", advertise="127.0.0.1:14002"))
    assert (config.address, config.port, config.join_port) == ("127.0.0.1", 14002, 14003)
    assert advertised(host) == config
    forget(host)
    assert advertised(host) == host


@pytest.mark.parametrize(
    ("wanted", "field", "sentence"),
    [
        ({"listen": "0.0.0.0:7946"}, "ListenAddr", "7946 is the host's agent_port"),
        ({"listen": "0.0.0.0:2383"}, "ListenAddr", "2384 is the host's etcd_port"),
        ({"listen": "0.0.0.0:65535"}, "ListenAddr", "65536 is none"),
        ({"listen": "0.0.0.0:x"}, "ListenAddr", "invalid listen address '0.0.0.0:x'"),
        ({"listen": "192.0.2.77"}, "ListenAddr", "192.0.2.77 is not an address of this host"),
        (
            {"listen": "127.0.0.2:5000", "advertise": "127.0.0.1"},
            "ListenAddr",
            "advertised (127.0.0.1) or on all addresses (0.0.0.0), not on 127.0.0.2 alone",
        ),
        (
            {"listen": "0.0.0.0:5000", "advertise": "127.0.0.1:6000"},
            "AdvertiseAddr",
            "serves on port 5000, not on 6000; another one is given by --listen-addr",
        ),
    ],
)
def test_addresses_that_cannot_be_had(
    tmp_path: Path, wanted: dict[str, str], field: str, sentence: str
) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(sentence)) as refused:
        chosen(tmp_path, **wanted)
    assert refused.value.field == field
