"""Keys, ways and rotation of the tunnel, without a device."""

from ipaddress import IPv4Network

from agent.network.tunnel import (
    RETIRE_SECONDS,
    ROTATE_SECONDS,
    Device,
    TunnelPeer,
    configuration,
    due,
    inner_address,
    inner_addresses,
    retired,
    ways,
)
from shoal.model.ids import NodeID
from shoal.model.objects import TunnelKey

B = NodeID("b")


def device(slot: int = 0, since: float = 0.0) -> Device:
    return Device(
        slot=slot, private_key=f"p{slot}", public_key=f"k{slot}", port=51820 + slot, since=since
    )


def peer(*slots: int, underlay: str = "192.0.2.2") -> TunnelPeer:
    keys = tuple(TunnelKey(slot=s, public_key=f"B{s}", port=51820 + s) for s in slots)
    return TunnelPeer(node_id=B, underlay=underlay, subnet="10.128.2.0/24", keys=keys)


def test_inner_addresses_are_the_highest_of_the_subnet_and_no_tasks() -> None:
    subnet = IPv4Network("10.128.2.0/24")
    assert [inner_address(str(subnet), slot) for slot in (0, 1)] == [
        "10.128.2.254",
        "10.128.2.253",
    ]
    assert list(map(str, inner_addresses(subnet))) == ["10.128.2.254", "10.128.2.253"]


def test_a_device_knows_every_key_of_every_peer_and_no_other_source() -> None:
    text = configuration(device(), [peer(0, 1)])
    assert text == (
        "[Interface]\nPrivateKey = p0\nListenPort = 51820\n"
        "[Peer]\nPublicKey = B0\nAllowedIPs = 10.128.2.254/32\nEndpoint = 192.0.2.2:51820\n"
        "PersistentKeepalive = 25\n"
        "[Peer]\nPublicKey = B1\nAllowedIPs = 10.128.2.253/32\nEndpoint = 192.0.2.2:51821\n"
        "PersistentKeepalive = 25\n"
    )


def test_an_ipv6_underlay_is_bracketed() -> None:
    assert "Endpoint = [2001:db8::2]:51820" in configuration(
        device(), [peer(0, underlay="2001:db8::2")]
    )


def test_a_peer_that_never_answered_is_no_destination_but_has_a_route() -> None:
    found = ways([device()], [peer(0)], {(0, "B0"): 0.0})
    assert found.destinations == {}
    assert found.routes == {"10.128.2.254": 0}


def test_a_new_key_of_the_peer_is_used_once_it_answers() -> None:
    before = ways([device()], [peer(0, 1)], {(0, "B0"): 5.0, (0, "B1"): 0.0})
    assert before.destinations == {B: "10.128.2.254"}
    after = ways([device()], [peer(0, 1)], {(0, "B0"): 5.0, (0, "B1"): 9.0})
    assert after.destinations == {B: "10.128.2.253"}


def test_a_new_device_of_ours_is_used_for_peers_that_answered_it() -> None:
    ours = [device(0), device(1, since=10.0)]
    assert ways(ours, [peer(0)], {(0, "B0"): 5.0}).routes == {"10.128.2.254": 0}
    answered = {(0, "B0"): 5.0, (1, "B0"): 11.0}
    assert ways(ours, [peer(0)], answered).routes == {"10.128.2.254": 1}


def test_without_a_device_there_is_no_way() -> None:
    found = ways([], [peer(0)], {})
    assert (found.routes, found.destinations) == ({}, {})


def test_a_key_is_changed_when_due_and_never_a_third_is_made() -> None:
    assert not due([device()], ROTATE_SECONDS - 1)
    assert due([device()], ROTATE_SECONDS)
    assert not due([device(), device(1)], 10 * ROTATE_SECONDS)


def test_the_old_key_goes_when_every_keyed_peer_answered_the_new_one() -> None:
    old, new = device(0), device(1, since=100.0)
    keyless = TunnelPeer(node_id=NodeID("c"), underlay="192.0.2.3", subnet="10.128.3.0/24")
    peers = [peer(0), keyless]
    assert retired([old], peers, {}, 1000.0) is None
    assert retired([old, new], peers, {(1, "B0"): 0.0}, 101.0) is None
    assert retired([old, new], peers, {(1, "B0"): 101.0}, 102.0) == old


def test_the_old_key_goes_at_last_even_if_a_peer_is_silent() -> None:
    old, new = device(0), device(1, since=100.0)
    assert retired([old, new], [peer(0)], {}, 100.0 + RETIRE_SECONDS) == old
