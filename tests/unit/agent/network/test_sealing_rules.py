"""What may pass by the tunnel and what may not pass beside it."""

from agent.network.plan import names_for
from agent.network.sealing_rules import sealing_chains

NAMES = names_for("sh0")
TUNNEL = '{ "sh0-w0", "sh0-w1" }'


def test_an_encrypted_networks_packets_pass_by_the_tunnel_and_nothing_else_does() -> None:
    chains = sealing_chains(NAMES, 4790, {4101, 4100})
    vxlan = "udp dport 4790 @th,96,24 { 4100, 4101 }"
    for hook, side in (("input", "iifname"), ("output", "oifname")):
        assert chains[f"sealed_{hook}"] == (
            f"type filter hook {hook} priority -300;",
            f"{side} {TUNNEL} {vxlan} accept",
            f"{side} {TUNNEL} drop",
            f"{vxlan} drop",
        )


def test_nothing_is_routed_into_the_tunnel_or_out_of_it() -> None:
    for sealed in ((), (4100,)):
        assert sealing_chains(NAMES, 4789, sealed)["sealed_forward"][1:] == (
            f"iifname {TUNNEL} drop",
            f"oifname {TUNNEL} drop",
        )


def test_the_chains_are_the_same_without_such_a_network() -> None:
    without, with_one = sealing_chains(NAMES, 4789, ()), sealing_chains(NAMES, 4789, {4100})
    assert without.keys() == with_one.keys()
    assert without["sealed_input"][1:] == (f"iifname {TUNNEL} drop",)
