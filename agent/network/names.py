"""What a container's names mean: the answer to one query out of its networks' zones. Pure.

A zone is one network's names, made once for all its containers by `zones`. A container asks the
networks it is on, in its order: the first one in which the name has an address, of whichever
family, answers (as Docker does; two networks' answers are never mixed). `name` and
`name.network` are the same. A name that is known is never forwarded: what it does not have is
an answer without records. A name below a search domain is not taken for ours: `db.example.com`
may exist, and a stub resolver asks for the bare `db` first (`ndots:0`) or next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from agent.network import dns

Shuffle = Callable[[list[bytes]], None]


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """The names of one network, all in lower case.

    Attributes:
        names: addresses of both families by name.
        pointers: the full name of each address.
        ports: named ports by `_port._protocol.service`.
        subnets: beginning and prefix length; what is in them is never asked of others.
    """

    network: str
    names: Mapping[str, tuple[bytes, ...]]
    pointers: Mapping[bytes, str]
    ports: Mapping[str, tuple[dns.Service, ...]] = {}
    subnets: tuple[tuple[bytes, int], ...] = ()

    def own(self, name: str) -> Iterator[str]:
        """The forms of a name to look for."""
        yield name
        if name.endswith(self.network) and name[-len(self.network) - 1 :].startswith("."):
            yield name[: -len(self.network) - 1]


def answer(
    query: dns.Query, identity: bytes, zones: Sequence[Zone], shuffle: Shuffle, most: int
) -> bytes | None:
    """The answer to a query under an id; None if it is not ours to answer.

    Args:
        query: the query.
        identity: the two bytes of its id.
        zones: of the asker's networks, in its order.
        shuffle: brings several addresses into an order of chance.
        most: bytes that the answer may have.
    """
    if dns.opcode(query):
        return dns.failure(query, identity, dns.NOT_IMPLEMENTED)
    if query.version:
        return dns.bad_version(query, identity)
    if query.kind not in (dns.IN, dns.ANY):
        return None
    if query.type == dns.PTR and query.name.endswith(".arpa"):
        return _answer_pointer(query, identity, zones, most)
    known = False
    for zone in zones:
        for name in zone.own(query.name):
            ports, found = zone.ports.get(name), zone.names.get(name)
            known = known or ports is not None or found is not None
            if ports and query.type == dns.SRV:
                return dns.services(query, identity, ports, most)
            if found:
                chosen = _of_type(found, query.type)
                shuffle(chosen)
                return dns.addresses(query, identity, chosen, most)
    return dns.addresses(query, identity, (), most) if known else None


def _of_type(found: Sequence[bytes], kind: int) -> list[bytes]:
    if kind == dns.A:
        return [each for each in found if len(each) == 4]
    if kind == dns.AAAA:
        return [each for each in found if len(each) == 16]
    return list(found) if kind == dns.ANY else []


def _answer_pointer(
    query: dns.Query, identity: bytes, zones: Sequence[Zone], most: int
) -> bytes | None:
    address = dns.address_of(query.name)
    if address is None:
        return None
    for zone in zones:
        if (target := zone.pointers.get(address)) is not None:
            return dns.pointer(query, identity, target, most)
    for zone in zones:
        if any(_within(address, *subnet) for subnet in zone.subnets):
            return dns.failure(query, identity, dns.NO_NAME)
    return None


def _within(address: bytes, start: bytes, prefix: int) -> bool:
    if len(address) != len(start):
        return False
    shift = 8 * len(start) - prefix
    return int.from_bytes(address) >> shift == int.from_bytes(start) >> shift
