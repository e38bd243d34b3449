"""nftables as netlink messages: transactions of tables, chains, sets, elements and rules.

libnftables reads the whole table before each change; these messages cost what they change.
They say `inet` throughout. Constants are those of linux/netfilter/nf_tables.h, in the order of
their use. `vip_rules` composes them; a `Channel` carries them.
"""

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence

from agent.network.netlink import (
    CREATE,
    Channel,
    Message,
    Request,
    attribute,
    attributes,
    nested,
    text,
)

_SUBSYSTEM = 10
_NEW_TABLE, _DELETE_TABLE = _SUBSYSTEM << 8 | 0, _SUBSYSTEM << 8 | 2
_NEW_CHAIN, _GET_CHAIN, _DELETE_CHAIN = (_SUBSYSTEM << 8 | each for each in (3, 4, 5))
_NEW_RULE, _GET_RULE, _DELETE_RULE = (_SUBSYSTEM << 8 | each for each in (6, 7, 8))
_NEW_SET = _SUBSYSTEM << 8 | 9
_NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT = (_SUBSYSTEM << 8 | each for each in (12, 13, 14))
_GET_GENERATION = _SUBSYSTEM << 8 | 16
_APPEND = 0x800

INET = 1
_NFGENMSG = struct.pack(">BBH", INET, 0, 0)
_BODY = len(_NFGENMSG)
_BATCH = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
_BEGIN_KIND, _END_KIND = 0x10, 0x11
_END = Request("end of the transaction", _END_KIND, 0, _BATCH)

ACCEPT = 1
_GOTO = -4
_REGISTER_VERDICT, _REGISTER, _REGISTER_32 = 0, 1, 8
_MAP, _EVALUATED = 0x8, 0x20
_TIMEOUTS = 7
MARK = 19
"""The type of a number in the machine's own order; others are the network's."""
_VERDICT_TYPE = 0xFFFFFF00
_MOST_ELEMENTS = 400
"""In one message: an attribute's length has 16 bits, an element takes up to 120 bytes."""

Element = tuple[bytes, bytes]
"""Key and data, as attributes' values; data empty in a set."""


def transact(
    channel: Channel, requests: Sequence[Request], generation: int | None = None
) -> None:
    """Do all of them in one transaction, or none.

    With a generation number, only if the rules' is still this.

    Raises:
        OSError: a refusal; ERESTART if the generation is another.
    """
    expected = attribute(1, struct.pack(">I", generation)) if generation is not None else b""
    begin = Request("transaction", _BEGIN_KIND, 0, _BATCH + expected)
    channel.transact(begin, requests, _END)


def read_generation(channel: Channel) -> int:
    """The namespace's generation number: one more after each transaction of anyone."""
    answer = channel.get(_GET_GENERATION, struct.pack(">BBH", 0, 0, 0))
    return int.from_bytes(attributes(answer.body, _BODY).get(1, b""), "big")


def add_table(table: str) -> Request:
    """Exists already: no error."""
    return Request(f"table {table}", _NEW_TABLE, CREATE, _NFGENMSG + text(1, table))


def delete_table(table: str) -> Request:
    """With all in it."""
    return Request(f"delete table {table}", _DELETE_TABLE, 0, _NFGENMSG + text(1, table))


def add_chain(table: str, chain: str) -> Request:
    """A chain that others lead to."""
    body = _NFGENMSG + text(1, table) + text(3, chain)
    return Request(f"chain {chain}", _NEW_CHAIN, CREATE, body)


def add_base_chain(table: str, chain: str, kind: str, hook: int, priority: int) -> Request:
    """A chain that the kernel leads packets to; what passes it is accepted."""
    where = nested(4, _number(1, hook), attribute(2, struct.pack(">i", priority)))
    body = _NFGENMSG + text(1, table) + text(3, chain) + where + _number(5, ACCEPT)
    return Request(f"chain {chain}", _NEW_CHAIN, CREATE, body + text(7, kind))


def delete_chain(table: str, chain: str) -> Request:
    """Nothing may lead to it any more."""
    body = _NFGENMSG + text(1, table) + text(3, chain)
    return Request(f"delete chain {chain}", _DELETE_CHAIN, 0, body)


def add_rule(table: str, chain: str, expressions: Sequence[bytes]) -> Request:
    """At the end of the chain."""
    listed = nested(4, *(nested(1, each) for each in expressions))
    body = _NFGENMSG + text(1, table) + text(2, chain) + listed
    return Request(f"rule in chain {chain}", _NEW_RULE, CREATE | _APPEND, body)


def flush_chain(table: str, chain: str) -> Request:
    """Delete all rules of a chain."""
    body = _NFGENMSG + text(1, table) + text(2, chain)
    return Request(f"flush chain {chain}", _DELETE_RULE, 0, body, (errno.ENOENT,))


def add_set(table: str, name: str, number: int, key: tuple[int, int]) -> Request:
    """A set; `key` is type and length."""
    return _add_set(table, name, number, key, b"", flags=0)


def add_written_set(table: str, name: str, number: int, key: tuple[int, int]) -> Request:
    """A set that rules add to."""
    return _add_set(table, name, number, key, b"", flags=_EVALUATED)


def add_map(
    table: str, name: str, number: int, key: tuple[int, int], data: tuple[int, int]
) -> Request:
    """A map; `key` and `data` are type and length.

    `number` is any, other than those of the same transaction.
    """
    types = _number(6, data[0]) + _number(7, data[1])
    orders = _order(0, key[0]) + _order(1, data[0])
    return _add_set(table, name, number, key, types + attribute(13, orders))


def add_verdict_map(table: str, name: str, number: int, key: tuple[int, int]) -> Request:
    """A map to chains."""
    data = _number(6, _VERDICT_TYPE) + attribute(13, _order(0, key[0]))
    return _add_set(table, name, number, key, data)


def _order(side: int, kind: int) -> bytes:
    """A note for those who list a map: in which order the bytes of key (0) or data (1) are."""
    return struct.pack("=BBI", side, 4, 1 if kind == MARK else 2)


def _add_set(
    table: str,
    name: str,
    number: int,
    key: tuple[int, int],
    data: bytes,
    flags: int = _MAP,
) -> Request:
    head = _NFGENMSG + text(1, table) + text(2, name) + _number(3, flags)
    kind = _number(4, key[0]) + _number(5, key[1])
    body = head + kind + data + _number(10, number)
    return Request(f"set {name}", _NEW_SET, CREATE, body)


def add_elements(table: str, name: str, elements: Sequence[Element]) -> Iterator[Request]:
    """Add to a set or map."""
    return _elements(f"elements of {name}", _NEW_ELEMENT, CREATE, (table, name, elements))


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> Iterator[Request]:
    """Delete from a set or map; each must be there."""
    elements = [(key, b"") for key in keys]
    return _elements(f"delete elements of {name}", _DELETE_ELEMENT, 0, (table, name, elements))


def _elements(
    what: str, kind: int, flags: int, content: tuple[str, str, Sequence[Element]]
) -> Iterator[Request]:
    table, name, elements = content
    head = _NFGENMSG + text(1, table) + text(2, name)
    for start in range(0, len(elements), _MOST_ELEMENTS):
        some = elements[start : start + _MOST_ELEMENTS]
        listed = nested(
            3,
            *(
                nested(1, nested(1, attribute(1, key)), nested(2, data) if data else b"")
                for key, data in some
            ),
        )
        yield Request(what, kind, flags, head + listed)


def plain(data: bytes) -> bytes:
    """A map element's data that is a value."""
    return attribute(1, data)


def goto(chain: str) -> bytes:
    """A map element's data that leads to a chain."""
    return nested(2, attribute(1, struct.pack(">i", _GOTO)), text(2, chain))


def load_payload(offset: int, length: int) -> bytes:
    """Bytes of the network header."""
    fields = (_number(1, _REGISTER), _number(2, 1), _number(3, offset), _number(4, length))
    return _expression("payload", *fields)


def load_family() -> bytes:
    """`meta nfproto`."""
    return _expression("meta", _number(1, _REGISTER), _number(2, 15))


def load_protocol(behind: int = 0) -> bytes:
    """`meta l4proto`, `behind` so many bytes in the register."""
    return _expression("meta", _number(1, _register(behind)), _number(2, 16))


def load_port(behind: int = 0) -> bytes:
    """`th dport`, `behind` so many bytes in the register."""
    fields = (_number(1, _register(behind)), _number(2, 2), _number(3, 2), _number(4, 2))
    return _expression("payload", *fields)


def load_ct_status() -> bytes:
    """`ct status`."""
    return _expression("ct", _number(1, _REGISTER), _number(2, 2))


def load_ct_mark(behind: int = 0) -> bytes:
    """`ct mark`, `behind` so many bytes in the register: what follows takes both together."""
    return _expression("ct", _number(1, _register(behind)), _number(2, 3))


def _register(behind: int) -> int:
    return _REGISTER + behind // 16 if behind % 16 == 0 else _REGISTER_32 + behind // 4


def set_ct_mark() -> bytes:
    """`ct mark set` to the register's content."""
    return _expression("ct", _number(2, 3), _number(4, _REGISTER))


def mask(bits: int) -> bytes:
    """Keep these bits of a number in the machine's own order."""
    number = nested(4, attribute(1, struct.pack("=I", bits)))
    zero = nested(5, attribute(1, struct.pack("=I", 0)))
    registers = (_number(1, _REGISTER), _number(2, _REGISTER), _number(3, 4))
    return _expression("bitwise", *registers, number, zero)


def equals(data: bytes) -> bytes:
    """Go on if the register holds this."""
    return _compare(0, data)


def differs(data: bytes) -> bytes:
    """Go on if the register holds something else."""
    return _compare(1, data)


def _compare(operator: int, data: bytes) -> bytes:
    wanted = nested(3, attribute(1, data))
    return _expression("cmp", _number(1, _REGISTER), _number(2, operator), wanted)


def remember(name: str) -> bytes:
    """Add the register's content to a set."""
    return _expression("dynset", text(1, name), _number(3, 0), _number(4, _REGISTER))


def translate(name: str) -> bytes:
    """Replace the register's content by what the map has for it, go on if it has."""
    return _expression("lookup", text(1, name), _number(2, _REGISTER), _number(3, _REGISTER))


def decide(name: str) -> bytes:
    """Go where the verdict map leads, go on if it has nothing."""
    registers = (_number(2, _REGISTER), _number(3, _REGISTER_VERDICT))
    return _expression("lookup", text(1, name), *registers)


def random_number(modulus: int, offset: int) -> bytes:
    """One of offset, ..., offset + modulus - 1."""
    fields = (_number(1, _REGISTER), _number(2, modulus), _number(3, 1), _number(4, offset))
    return _expression("numgen", *fields)


def member(name: str) -> bytes:
    """Go on if the register's content is in the set."""
    return _expression("lookup", text(1, name), _number(2, _REGISTER))


def keep_by(timeouts: str) -> bytes:
    """`ct timeout set`: how long the new flow is remembered in each of its states."""
    return _expression("objref", _number(1, _TIMEOUTS), text(2, timeouts))


def redirect(family: int, port_behind: int = 0) -> bytes:
    """`dnat` to the address in the register; of that address family.

    With a port, which is so many bytes behind in the register.
    """
    fields = [_number(1, 1), _number(2, family), _number(3, _REGISTER)]
    if port_behind:
        fields.append(_number(5, _REGISTER_32 + port_behind // 4))
    return _expression("nat", *fields)


def reset_tcp() -> bytes:
    """`reject with tcp reset`."""
    return _expression("reject", _number(1, 1))


def reject() -> bytes:
    """`reject`: port unreachable, in ICMP of either family."""
    return _expression("reject", _number(1, 2), attribute(2, b"\1"))


def verdict(code: int, chain: str = "") -> bytes:
    """Accept, or go to a chain."""
    where = text(2, chain) if chain else b""
    decision = nested(2, attribute(1, struct.pack(">i", code)), where)
    return _expression("immediate", _number(1, _REGISTER_VERDICT), nested(2, decision))


def goto_chain(chain: str) -> bytes:
    """Go to a chain and not come back."""
    return verdict(_GOTO, chain)


def _expression(name: str, *fields: bytes) -> bytes:
    return text(1, name) + nested(2, *fields)


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack(">I", number))


def read_chains(channel: Channel, table: str) -> set[str]:
    """The names of a table's chains; none if there is no table."""
    found = (attributes(each.body, _BODY) for each in channel.dump(_GET_CHAIN, _NFGENMSG))
    return {_string(each[3]) for each in found if _string(each[1]) == table}


def read_rules(channel: Channel, table: str) -> list[tuple[str, bytes]]:
    """Chain and expressions of each rule of a table, in order."""
    messages = channel.dump(_GET_RULE, _NFGENMSG + text(1, table))
    found = (attributes(each.body, _BODY) for each in messages)
    return [(_string(each[2]), each.get(4, b"")) for each in found if _string(each[1]) == table]


def read_elements(channel: Channel, table: str, name: str) -> list[Element]:
    """Keys and data of a set or map; OSError with ENOENT if there is none."""
    found: list[Element] = []
    for message in channel.dump(_GET_ELEMENT, _NFGENMSG + text(1, table) + text(2, name)):
        found += _elements_of(message)
    return found


def has_element(channel: Channel, table: str, name: str, key: bytes) -> bool:
    """Whether a set has a key."""
    listed = nested(3, nested(1, nested(1, attribute(1, key))))
    try:
        channel.get(_GET_ELEMENT, _NFGENMSG + text(1, table) + text(2, name) + listed)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _elements_of(message: Message) -> Iterator[Element]:
    listed = attributes(message.body, _BODY).get(3, b"")
    for body in members(listed):
        element = attributes(body, 0)
        key = attributes(element.get(1, b""), 0).get(1, b"")
        yield key, element.get(2, b"")


def members(listed: bytes) -> Iterator[bytes]:
    """The members of a list of attributes of one kind."""
    offset = 0
    while offset + 4 <= len(listed):
        length = struct.unpack_from("=H", listed, offset)[0]
        if length < 4:
            return
        yield listed[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def plain_of(data: bytes) -> bytes:
    """The value in a map element's data."""
    return attributes(data, 0).get(1, b"")


def chain_of(data: bytes) -> str:
    """The chain that a map element's data leads to; empty if it leads nowhere."""
    found = attributes(attributes(data, 0).get(2, b""), 0)
    going = found.get(1, b"") == struct.pack(">i", _GOTO)
    return _string(found.get(2, b"")) if going else ""


def same_expressions(wanted: Sequence[bytes], found: bytes) -> bool:
    """Whether a rule read back says all that was asked for (the kernel adds to it)."""
    there = list(members(found))
    return len(wanted) == len(there) and all(
        _includes(one, other) for one, other in zip(wanted, there, strict=True)
    )


def _includes(wanted: bytes, found: bytes) -> bool:
    there = attributes(found, 0)
    offset = 0
    while offset + 4 <= len(wanted):
        length, kind = struct.unpack_from("=HH", wanted, offset)
        body = wanted[offset + 4 : offset + length]
        other = there.get(kind & 0x3FFF)
        if other is None:
            return False
        if kind & 0x8000:
            if not _includes(body, other):
                return False
        elif body != other:
            return False
        offset += (length + 3) & ~3
    return True


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
