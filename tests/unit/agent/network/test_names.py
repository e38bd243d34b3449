"""Which names a container has and what they lead to."""

from ipaddress import ip_address

import dnslib
import msgspec
import pytest

from agent.network import dns
from agent.network.desired import ClusterNetworks
from agent.network.names import Zone, answer
from agent.network.views import ClusterViews
from agent.network.zones import Host, local_zone
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService, Subnet
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.spec.service import PortConfig

FRONT, BACK = NetworkID("front"), NetworkID("back")


def endpoint(
    number: int,
    service: str,
    *,
    network: NetworkID = FRONT,
    serving: bool = True,
    names: tuple[str, ...] = (),
) -> NetworkEndpoint:
    third = 1 if network == FRONT else 2
    return NetworkEndpoint(
        network_id=network,
        task_id=TaskID(f"t{number}"),
        node_id=NodeID("n"),
        underlay="192.0.2.1",
        addresses=(f"10.0.{third}.{number}", f"fd0{third}::{number}"),
        mac="",
        names=(f"{service}.{number}.t{number}", *names),
        service_id=ServiceID(service),
        serving=serving,
    )


def networks() -> ClusterNetworks:
    endpoints = [
        endpoint(11, "web", names=("Special", "shared")),
        endpoint(12, "web", serving=False, names=("shared",)),
        endpoint(13, "db"),
        endpoint(14, "db"),
        endpoint(15, "idle", serving=False),
        endpoint(21, "db", network=BACK),
    ]
    services = [
        NetworkService(
            network_id=FRONT,
            service_id=ServiceID("web"),
            name="Web",
            aliases=("www",),
            virtual_ips=("10.0.1.2",),
            ports=(PortConfig(name="http", target_port=8080),),
        ),
        NetworkService(
            network_id=FRONT,
            service_id=ServiceID("db"),
            name="db",
            ports=(PortConfig(name="sql", target_port=5432),),
        ),
        NetworkService(network_id=FRONT, service_id=ServiceID("idle"), name="idle"),
        NetworkService(
            network_id=BACK, service_id=ServiceID("db"), name="db", virtual_ips=("10.0.2.2",)
        ),
    ]
    return ClusterNetworks(
        node_id=NodeID("n"),
        underlay="192.0.2.1",
        networks={
            FRONT: AssignedNetwork(
                id=FRONT,
                name="front",
                subnets=(Subnet(subnet="10.0.1.0/24"), Subnet(subnet="fd01::/64")),
            ),
            BACK: AssignedNetwork(id=BACK, name="back"),
        },
        endpoints={each.key: each for each in endpoints},
        services={each.key: each for each in services},
    )


VIEWS = ClusterViews().update(networks())
ZONES = [VIEWS[FRONT].zone, VIEWS[BACK].zone]


def ask(name: str, kind: str = "A", zones: list[Zone] = ZONES) -> dnslib.DNSRecord | None:
    raw = bytes(dnslib.DNSRecord.question(name, kind).pack())
    found = answer(dns.parse(raw), raw[:2], zones, list.sort, 4096)
    return None if found is None else dnslib.DNSRecord.parse(found)


def values(name: str, kind: str = "A", zones: list[Zone] = ZONES) -> list[str]:
    found = ask(name, kind, zones)
    assert found is not None, f"{name} is not ours"
    assert found.header.rcode == 0
    return [str(rr.rdata) for rr in found.rr]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("web", ["10.0.1.2"]),
        ("WEB", ["10.0.1.2"]),
        ("www", ["10.0.1.2"]),
        ("web.front", ["10.0.1.2"]),
        ("tasks.web", ["10.0.1.11"]),
        ("tasks.www.front", ["10.0.1.11"]),
        ("db", ["10.0.1.13", "10.0.1.14"]),
        ("tasks.db", ["10.0.1.13", "10.0.1.14"]),
        ("db.back", ["10.0.2.2"]),
        ("web.1.t1", None),
        ("web.11.t11", ["10.0.1.11"]),
        ("web.12.t12", ["10.0.1.12"]),
        ("special", ["10.0.1.11"]),
        ("shared", ["10.0.1.11"]),
        ("idle", []),
        ("tasks.idle", []),
        ("web.back", None),
        ("web.example.com", None),
        ("example.com", None),
        ("front", None),
    ],
)
def test_addresses(name: str, wanted: list[str] | None) -> None:
    if wanted is None:
        assert ask(name) is None
    else:
        assert values(name) == wanted


def test_only_the_networks_of_the_asker() -> None:
    back = [VIEWS[BACK].zone]
    assert ask("web", zones=back) is None
    assert values("db", zones=back) == ["10.0.2.2"]
    assert ask("web", zones=[]) is None


def test_the_first_network_in_which_the_name_has_an_address_answers() -> None:
    assert values("db", zones=ZONES[::-1]) == ["10.0.2.2"]
    # never IPv4 of one network and IPv6 of the other
    assert values("db", "AAAA", ZONES[::-1]) == []
    assert values("db", "AAAA") == ["fd01::13", "fd01::14"]


def test_a_name_without_an_address_gives_way_to_the_next_network() -> None:
    other = local_zone("mine", [Host(names=("idle",), addresses=("172.20.0.2",))])
    assert values("idle", zones=[*ZONES, other]) == ["172.20.0.2"]


def test_another_family_and_other_types_have_no_records() -> None:
    assert values("web", "AAAA") == []
    assert values("tasks.web", "AAAA") == ["fd01::11"]
    assert values("web", "MX") == []
    assert values("web", "SRV") == []
    assert values("_http._tcp.web", "A") == []
    assert values("tasks.web", "ANY") == ["10.0.1.11", "fd01::11"]
    assert ask("unknown", "AAAA") is None


def test_pointers() -> None:
    def name_of(address: str) -> list[str]:
        return values(ip_address(address).reverse_pointer, "PTR")

    assert name_of("10.0.1.2") == ["Web.front."]
    assert name_of("10.0.1.12") == ["web.12.t12.front."]
    assert name_of("fd02::21") == ["db.21.t21.back."]
    free = ask("99.1.0.10.in-addr.arpa", "PTR")
    assert free is not None
    assert free.header.rcode == dns.NO_NAME  # in our subnet, nobody's
    assert ask("1.2.0.192.in-addr.arpa", "PTR") is None


def test_named_ports() -> None:
    assert values("_http._tcp.web", "SRV") == ["0 1 8080 Web.front."]
    assert values("_HTTP._TCP.www.front", "SRV") == ["0 1 8080 Web.front."]
    assert values("_sql._tcp.db", "SRV") == [
        "0 1 5432 db.13.t13.front.",
        "0 1 5432 db.14.t14.front.",
    ]
    assert values("_http._tcp.tasks.web", "SRV") == ["0 1 8080 web.11.t11.front."]
    assert ask("_none._tcp.web", "SRV") is None


def test_several_addresses_come_in_an_order_of_chance() -> None:
    raw = bytes(dnslib.DNSRecord.question("db").pack())
    found = answer(dns.parse(raw), raw[:2], ZONES, list.reverse, 4096)
    assert [str(rr.rdata) for rr in dnslib.DNSRecord.parse(found).rr] == [
        "10.0.1.14",
        "10.0.1.13",
    ]


def test_a_zone_of_one_host() -> None:
    zone = local_zone(
        "mine",
        [Host(names=("one", "1a2b3c"), addresses=("172.20.0.2",))],
        ["172.20.0.0/16"],
    )
    assert values("one", zones=[zone]) == ["172.20.0.2"]
    assert values("1A2B3C.Mine", zones=[zone]) == ["172.20.0.2"]
    assert values("2.0.20.172.in-addr.arpa", "PTR", [zone]) == ["one.mine."]


def test_other_operations_are_not_implemented() -> None:
    raw = bytearray(dnslib.DNSRecord.question("web").pack())
    raw[2] |= 5 << 3
    found = answer(dns.parse(bytes(raw)), bytes(raw[:2]), ZONES, list.sort, 512)
    assert dnslib.DNSRecord.parse(found).header.rcode == dns.NOT_IMPLEMENTED


def test_a_network_that_did_not_change_keeps_its_view() -> None:
    views = ClusterViews()
    first = networks()
    before = views.update(first)
    gone = dict(first.endpoints)
    del gone["back/t21"]
    after = views.update(msgspec.structs.replace(first, endpoints=gone))
    assert after[FRONT] is before[FRONT]
    assert after[BACK].virtual_ips == {"10.0.2.2": ()}
    assert before[BACK].virtual_ips == {"10.0.2.2": ("10.0.2.21",)}
