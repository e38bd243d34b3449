"""The chains that pick one of a published port's backends, one for each number of backends.

    chain pick4_3 {
        meta l4proto tcp ct timeout set "half_open4"
        dnat ip to numgen random mod 3 . meta l4proto . th dport map @targets4
    }

Random, not counted: a counter would start anew at the first backend with every change. A
connection that its backend does not answer is forgotten before the client tries again, so that
another is picked: the host may be lost, and the kernel would keep to it for two minutes. In raw
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


def half_open(family: int) -> str:
    """The timeouts of connections to backends of that family."""
    return f"half_open{family}"


def half_open_timeouts(table: str) -> str:
    """Text that makes them, a second for what is not answered: clients try again after it."""
    words = ((4, "ip"), (6, "ip6"))
    declared = (
        f"ct timeout {half_open(family)}"
        f" {{ protocol tcp; l3proto {word}; policy = {{ syn_sent : 1 }}; }}"
        for family, word in words
    )
    return "\n".join((f"table inet {table} {{", *declared, "}")) + "\n"


def pick_chains(
    table: str, picks: Iterable[tuple[int, int]], timeouts: bool
) -> Iterator[Request]:
    """Make these chains, or make them new; with timeouts if there are some."""
    for family, size in sorted(picks):
        chain = pick_chain(family, size)
        number, length = _FAMILIES[family]
        yield nft.add_chain(table, chain)
        yield nft.flush_chain(table, chain)
        if timeouts:
            is_tcp = (nft.load_protocol(), nft.equals(bytes([socket.IPPROTO_TCP])))
            yield nft.add_rule(table, chain, (*is_tcp, nft.keep_by(half_open(family))))
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
