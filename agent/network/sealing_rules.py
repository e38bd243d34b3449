"""The rules that keep encrypted networks inside the tunnel, whatever routes there are.

Pure. VXLAN of an encrypted network passes by the tunnel's devices only, and those carry nothing
else: a container that sends to a peer's inner address, or forges VXLAN in clear, gets nowhere.
Before all other rules (priority -300), so that no other table's accept comes first. Part of the
table of `nftables`.
"""

from collections.abc import Collection, Mapping

from agent.network.plan import Names
from agent.network.tunnel import SLOTS


def sealing_chains(
    names: Names, udp_port: int, sealed: Collection[int]
) -> Mapping[str, tuple[str, ...]]:
    """Base chains with their lines; the same chains also where no encrypted network is here.

    `sealed` are the VNIs of the encrypted networks that are here.
    """
    devices = ", ".join(f'"{names.tunnel(slot)}"' for slot in range(SLOTS))
    tunnel = f"{{ {devices} }}"
    return {
        "sealed_input": (
            "type filter hook input priority -300;",
            *_only(f"iifname {tunnel}", udp_port, sealed),
        ),
        "sealed_output": (
            "type filter hook output priority -300;",
            *_only(f"oifname {tunnel}", udp_port, sealed),
        ),
        "sealed_forward": (
            "type filter hook forward priority -300;",
            f"iifname {tunnel} drop",
            f"oifname {tunnel} drop",
        ),
    }


def _only(by_tunnel: str, udp_port: int, sealed: Collection[int]) -> tuple[str, ...]:
    if not sealed:
        return (f"{by_tunnel} drop",)
    # the VNI is bits 96 to 119 of the UDP datagram with its header
    vxlan = f"udp dport {udp_port} @th,96,24 {{ {', '.join(map(str, sorted(sealed)))} }}"
    return f"{by_tunnel} {vxlan} accept", f"{by_tunnel} drop", f"{vxlan} drop"
