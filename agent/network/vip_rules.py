"""Virtual IPs in nftables' words: the fixed part of a container's table, and what moves.

    set virtual4  { type ipv4_addr }                  all virtual IPs
    map sizes4    { type ipv4_addr : mark }           virtual IP : half and number of backends
    map picks4    { type mark : verdict }             half and number : goto pick4_0_3
    map backends4 { type ipv4_addr . mark : ipv4_addr }     virtual IP . number : backend
    chain out     { type nat hook output priority -100; ip daddr @virtual4 goto choose4 }
    set loose4    { type ipv4_addr; flags dynamic }   virtual IPs asked by other than TCP
    chain choose4 { meta l4proto != tcp add @loose4 { ip daddr };
                    ct mark set ip daddr map @sizes4; ct mark vmap @picks4 }
    chain pick4_0_3 { ct mark set numgen random mod 3;
                      dnat ip to ip daddr . ct mark map @backends4 }
    chain guard   { type filter hook output priority 0; ct status dnat accept;
                    ip daddr @virtual4 goto refuse }
    chain refuse  { meta l4proto tcp reject with tcp reset; reject }

and the same for IPv6. A service is elements and no more, so that a change of one costs the same
beside ten others and a thousand; a chain for each number of backends comes with the first
service of that many (a new rule, or an element with a verdict, has the kernel check the table).
The connection's mark carries the number from rule to rule: nftables before 1.1 dies on listing
a map of a map. No port is named: all protocols pass, ping too. A virtual IP without backends
meets `refuse`.

**`ct status dnat accept` must never go**: the kernel tracks connections only while a rule uses
that, and without it the loss of the last service would reset all that is established. For the
same reason nobody deletes the table to make it again, unless in one transaction.
`container_rules` sends it.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from agent.network import nft_messages as nft
from agent.network.balancing import MOST_BACKENDS, Move, Placed, family, packed
from agent.network.netlink import Request

TABLE = "shoal"
_OUT, _GUARD, _REFUSE = "out", "guard", "refuse"
_HOOK_OUTPUT = 3
_NAT_PRIORITY = -100
_TRANSLATED = 0x20
_TYPE_BITS = 6

Pick = tuple[int, int, int]
"""A chain's address family (4 or 6), half and number of backends."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between IPv4 and IPv6."""

    number: int
    protocol: int
    type: int
    length: int
    destination: int

    @property
    def virtual(self) -> str:
        """The set of all virtual IPs."""
        return f"virtual{self.number}"

    @property
    def loose(self) -> str:
        """The set of those that flows without connection went to."""
        return f"loose{self.number}"

    @property
    def choose(self) -> str:
        """The chain for all virtual IPs."""
        return f"choose{self.number}"

    @property
    def sizes(self) -> str:
        """The map of their numbers of backends."""
        return f"sizes{self.number}"

    @property
    def backends(self) -> str:
        """The map of all backends."""
        return f"backends{self.number}"

    @property
    def picks(self) -> str:
        """The map of the chains."""
        return f"picks{self.number}"


FAMILIES = {
    4: Family(number=4, protocol=socket.AF_INET, type=7, length=4, destination=16),
    6: Family(number=6, protocol=socket.AF_INET6, type=8, length=16, destination=24),
}


def replacement(placed: Sequence[Placed]) -> list[Request]:
    """All anew, in place of whatever is there."""
    requests = [nft.add_table(TABLE), nft.delete_table(TABLE), nft.add_table(TABLE)]
    mark = (nft.MARK, 4)
    for each in FAMILIES.values():
        address = (each.type, each.length)
        both = (each.type << _TYPE_BITS | nft.MARK, each.length + 4)
        base = each.number * 10
        requests += [
            nft.add_map(TABLE, each.sizes, base, address, mark),
            nft.add_map(TABLE, each.backends, base + 1, both, address),
            nft.add_verdict_map(TABLE, each.picks, base + 2, mark),
            nft.add_set(TABLE, each.virtual, base + 3, address),
            nft.add_written_set(TABLE, each.loose, base + 4, address),
            nft.add_chain(TABLE, each.choose),
        ]
    requests += [
        nft.add_chain(TABLE, _REFUSE),
        nft.add_base_chain(TABLE, _OUT, "nat", _HOOK_OUTPUT, _NAT_PRIORITY),
        nft.add_base_chain(TABLE, _GUARD, "filter", _HOOK_OUTPUT, 0),
    ]
    requests += [nft.add_rule(TABLE, chain, rule) for chain, rule in _fixed_rules()]
    requests += pick_steps(picks_of(placed))
    return requests + steps([Move(None, each) for each in placed])


def picks_of(placed: Iterable[Placed]) -> set[Pick]:
    """The chains that these lead to."""
    return {
        (family(each.address), each.half, len(each.backends))
        for each in placed
        if each.backends
    }


def steps(moves: Sequence[Move]) -> list[Request]:
    """What makes the moves, in one transaction, where all chains that they need are."""
    requests: list[Request] = []
    by_family: dict[int, list[Move]] = {4: [], 6: []}
    for move in moves:
        placed = move.new or move.old
        if placed is not None:
            by_family[family(placed.address)].append(move)
    for number, own in by_family.items():
        requests += _steps_of(FAMILIES[number], own)
    return requests


def pick_steps(picks: Iterable[Pick]) -> list[Request]:
    """What makes chains, in a transaction of its own before they are needed.

    A packet that is being handled while a transaction ends may meet a chain of it empty.
    """
    return [step for pick in sorted(picks) for step in _pick_steps(pick)]


def _pick_steps(pick: Pick) -> Iterator[Request]:
    number, half, count = pick
    chain = pick_chain(pick)
    yield nft.add_chain(TABLE, chain)
    for rule in _pick_rules(pick):
        yield nft.add_rule(TABLE, chain, rule)
    element = (_size(half, count), nft.goto(chain))
    yield from nft.add_elements(TABLE, FAMILIES[number].picks, [element])


def _steps_of(kind: Family, moves: Sequence[Move]) -> Iterator[Request]:
    old = [move.old for move in moves if move.old is not None]
    new = [move.new for move in moves if move.new is not None]
    gone = [packed(move.old.address) for move in moves if move.old and not move.new]
    come = [(packed(move.new.address), b"") for move in moves if move.new and not move.old]
    yield from nft.delete_elements(TABLE, kind.virtual, gone)
    yield from nft.delete_elements(TABLE, kind.sizes, [packed(each.address) for each in old])
    yield from nft.delete_elements(TABLE, kind.backends, list(_unused(moves)))
    backends = [
        (_key(each, each.half, n), nft.plain(packed(backend)))
        for each in new
        for n, backend in enumerate(each.backends)
    ]
    yield from nft.add_elements(TABLE, kind.backends, backends)
    sizes = [
        (packed(each.address), nft.plain(_size(each.half, len(each.backends)))) for each in new
    ]
    yield from nft.add_elements(TABLE, kind.sizes, sizes)
    yield from nft.add_elements(TABLE, kind.virtual, come)


def _unused(moves: Iterable[Move]) -> Iterator[bytes]:
    for move in moves:
        if move.old is not None:
            yield from (_key(move.old, 1 - move.old.half, n) for n in range(move.old.left))
            if move.new is None:
                count = len(move.old.backends)
                yield from (_key(move.old, move.old.half, n) for n in range(count))


def _key(placed: Placed, half: int, number: int) -> bytes:
    return packed(placed.address) + struct.pack("=I", half * MOST_BACKENDS + number)


def _size(half: int, count: int) -> bytes:
    return struct.pack("=I", half << 16 | count)


def size_from(raw: bytes) -> tuple[int, int]:
    """Half and number of backends out of an element of `sizes`."""
    both = int(struct.unpack("=I", raw)[0])
    return both >> 16, both & 0xFFFF


def pick_chain(pick: Pick) -> str:
    """The name of a chain."""
    return "pick{}_{}_{}".format(*pick)


def pick_from(kind: Family, key: bytes, chain: str) -> Pick:
    """The chain that an element of `picks` stands for; ValueError if it leads elsewhere."""
    half, count = size_from(key)
    pick = (kind.number, half, count)
    if not count or chain != pick_chain(pick):
        raise ValueError(f"{chain} is not as we make it")
    return pick


def _pick_rules(pick: Pick) -> list[list[bytes]]:
    number, half, count = pick
    kind = FAMILIES[number]
    return [
        [nft.random_number(count, half * MOST_BACKENDS), nft.set_ct_mark()],
        [
            *_destination(kind),
            nft.load_ct_mark(behind=kind.length),
            nft.translate(kind.backends),
            nft.redirect(kind.protocol),
        ],
    ]


def _fixed_rules() -> Iterator[tuple[str, list[bytes]]]:
    tcp = nft.equals(bytes([socket.IPPROTO_TCP]))
    yield _REFUSE, [nft.load_protocol(), tcp, nft.reset_tcp()]
    yield _REFUSE, [nft.reject()]
    status = [nft.load_ct_status(), nft.mask(_TRANSLATED), nft.differs(bytes(4))]
    yield _GUARD, [*status, nft.verdict(nft.ACCEPT)]
    for each in FAMILIES.values():
        virtual = [*_destination(each), nft.member(each.virtual)]
        yield _OUT, [*virtual, nft.goto_chain(each.choose)]
        yield _GUARD, [*virtual, nft.goto_chain(_REFUSE)]
        loose = [nft.load_protocol(), nft.differs(bytes([socket.IPPROTO_TCP]))]
        yield each.choose, [*loose, *_destination(each), nft.remember(each.loose)]
        yield each.choose, [*_destination(each), nft.translate(each.sizes), nft.set_ct_mark()]
        yield each.choose, [nft.load_ct_mark(), nft.decide(each.picks)]


def _destination(kind: Family) -> list[bytes]:
    return [
        nft.load_family(),
        nft.equals(bytes([kind.protocol])),
        nft.load_payload(kind.destination, kind.length),
    ]


def rules(picks: Iterable[Pick]) -> Iterator[tuple[str, list[bytes]]]:
    """Every rule there should be, chain and expressions, in order within a chain."""
    yield from _fixed_rules()
    for pick in picks:
        for rule in _pick_rules(pick):
            yield pick_chain(pick), rule


def chains(picks: Iterable[Pick]) -> set[str]:
    """Every chain there should be."""
    choosing = (each.choose for each in FAMILIES.values())
    return {_OUT, _GUARD, _REFUSE, *choosing, *(pick_chain(each) for each in picks)}
