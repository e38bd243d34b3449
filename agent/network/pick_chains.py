"""The chains that pick one of a published port's backends, one for each number of backends.

    chain pick4_3 { dnat ip to numgen random mod 3 . meta l4proto . th dport map @targets4 }

Random, not counted: a counter would start anew at the first backend with every change. In raw
messages, since nftables before 1.1 cannot say such a key of a map. Pure; `publishing` sends
them before the elements that lead to them, when the table's sets are there.
"""

import socket
from collections.abc import Iterable, Iterator

from agent.network import nft_messages as nft
from agent.network.netlink import Request

_FAMILIES = {4: (socket.AF_INET, 4), 6: (socket.AF_INET6, 16)}


def pick_chain(family: int, size: int) -> str:
    """The chain for that many backends."""
    return f"pick{family}_{size}"


def pick_chains(table: str, picks: Iterable[tuple[int, int]]) -> Iterator[Request]:
    """Make these chains, or make them new."""
    for family, size in sorted(picks):
        chain = pick_chain(family, size)
        number, length = _FAMILIES[family]
        yield nft.add_chain(table, chain)
        yield nft.flush_chain(table, chain)
        yield nft.add_rule(
            table,
            chain,
            (
                nft.random_number(size, 0),
                nft.load_protocol(behind=4),
                nft.load_port(behind=8),
                nft.translate(f"targets{family}"),
                nft.redirect(number, port_behind=length),
            ),
        )
