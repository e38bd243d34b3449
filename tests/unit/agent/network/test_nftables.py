"""The table's text: what is in it, and that a change touches only what changed."""

from ipaddress import IPv4Network

from msgspec.structs import replace

from agent.network.desired import (
    Backend,
    Endpoint,
    IngressPort,
    Interface,
    Mesh,
    Peer,
    PortBinding,
)
from agent.network.nftables import Ruleset, difference, make_ruleset, replacement
from agent.network.plan import names_for
from agent.network.published import Mesher, container_ports

NAMES = names_for("sh0")
LOCAL = IPv4Network("172.29.0.0/16")
MESH = Mesh(
    subnet="10.0.1.0/24",
    underlay="192.0.2.1",
    peers=(Peer(node="b", underlay="192.0.2.2", subnet="10.0.2.0/24"),),
)
WEB = Endpoint(
    container="web",
    interfaces=(
        Interface(network="bridge", addresses=("172.29.0.2/16",), gateways=("172.29.0.1",)),
    ),
    ports=(
        PortBinding(container_port=80, host_port=8080),
        PortBinding(protocol="udp", container_port=53, host_port=53, host_ip="127.0.0.1"),
    ),
)


def entry(port: int, *addresses: str, protocol: str = "tcp") -> IngressPort:
    backends = tuple(Backend(address=each, port=80) for each in addresses)
    assert protocol in ("tcp", "udp", "sctp")
    return IngressPort(protocol=protocol, published_port=port, backends=backends)  # type: ignore[arg-type]


def rules(
    *entries: IngressPort, mesh: Mesh | None = MESH, overlays: tuple[int, ...] = ()
) -> Ruleset:
    mesher = Mesher(mesh)
    ports = [*container_ports([WEB]), *map(mesher.port, entries)]
    return make_ruleset(NAMES, LOCAL, mesh, overlays, ports)


def test_no_difference_is_no_text() -> None:
    assert difference(rules(entry(9000, "10.0.1.5")), rules(entry(9000, "10.0.1.5"))) == ""


def test_difference_touches_only_what_changed() -> None:
    old = rules(entry(9000, "10.0.1.5"), entry(9001, "10.0.1.6", "10.0.1.7"), entry(9002))
    new = rules(entry(9000, "10.0.1.7"), entry(9002, "10.0.1.8"))
    assert difference(old, new).splitlines() == [
        "delete element inet shoal_sh0 ports4 { tcp . 9001 : goto pick4_2 }",
        "delete element inet shoal_sh0 refused { tcp . 9002 }",
        (
            "delete element inet shoal_sh0 targets4 { 0 . tcp . 9000 : 10.0.1.5 . 80, "
            "0 . tcp . 9001 : 10.0.1.6 . 80, 1 . tcp . 9001 : 10.0.1.7 . 80 }"
        ),
        "flush chain inet shoal_sh0 pick4_2",
        "delete chain inet shoal_sh0 pick4_2",
        "add element inet shoal_sh0 ports4 { tcp . 9002 : goto pick4_1 }",
        (
            "add element inet shoal_sh0 targets4 { 0 . tcp . 9000 : 10.0.1.7 . 80, "
            "0 . tcp . 9002 : 10.0.1.8 . 80 }"
        ),
    ]
    assert new.picks == {(4, 1)}


def test_a_new_peer_changes_one_set_and_a_new_mesh_no_hook() -> None:
    peers = (*MESH.peers, Peer(node="c", underlay="192.0.2.3", subnet="10.0.3.0/24"))
    assert difference(rules(), rules(mesh=replace(MESH, peers=peers))) == (
        "add element inet shoal_sh0 peers { 192.0.2.3 }\n"
    )
    text = difference(rules(mesh=None), rules())
    assert "flush chain inet shoal_sh0 postrouting\n" in text
    assert "type nat hook" not in text


def test_nothing_ever_deletes_the_table_or_a_base_chain() -> None:
    old = rules(entry(9000, "10.0.1.5", "10.0.1.6"))
    text = replacement(rules(mesh=None), [*old.base, "pick4_1", "pick4_2", "unknown"])
    deleted = [line for line in text.splitlines() if line.startswith("delete")]
    assert deleted == [
        "delete chain inet shoal_sh0 pick4_2",
        "delete chain inet shoal_sh0 unknown",
    ]
    flushed = text.index("flush map inet shoal_sh0 ports4")
    assert flushed < text.index("delete chain")
    assert "flush table" not in text


def test_a_cluster_network_is_open_to_itself_and_to_peers_only() -> None:
    made = rules(overlays=(0x1001,))
    assert made.elements["bridged"] == ('"sh0-b001001" . "sh0-b001001"',)
    assert any(
        "@th,96,24 { 4095, 4097 } ip saddr != @peers drop" in rule
        for rule in made.base["input"]
    )
    forward = made.base["forward"]
    assert forward.index("iifname . oifname @bridged accept") < forward.index(
        'iifname "sh0-b*" drop'
    )
    text = difference(rules(), made)
    assert 'add element inet shoal_sh0 bridged { "sh0-b001001" . "sh0-b001001" }' in text
    assert "flush chain inet shoal_sh0 forward" not in text


def test_ipv6_leaves_with_the_hosts_address_where_there_is_a_prefix() -> None:
    assert not any("ip6" in rule for rule in rules().base["postrouting"])
    made = rules(mesh=replace(MESH, prefix6="fd00:5::/96"))
    assert any(
        rule.startswith("ip6 saddr fd00:5::a00:100/120 oifname !=")
        for rule in made.base["postrouting"]
    )


def test_encrypted_networks_are_the_tunnels_business() -> None:
    """They come from inner addresses: a rule for peers' own addresses would drop them."""
    made = make_ruleset(NAMES, LOCAL, MESH, (4097, 4100), (), sealed={4100})
    (peers,) = (each for each in made.base["input"] if "@peers" in each)
    assert "{ 4095, 4097 }" in peers
    assert any("{ 4100 } drop" in each for each in made.base["sealed_input"])
    plain = make_ruleset(NAMES, LOCAL, MESH, (4097,), ())
    assert plain.base.keys() == made.base.keys()
    assert "delete" not in difference(made, plain).replace("delete element", "")
