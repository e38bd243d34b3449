"""What others did to our kernel objects: event sockets, read down to two yes-or-no answers.

Our own changes appear among the events too; `instance` drains before and after each of its own,
and compares the rules' generation number, so that only others' count. A sysctl sends no event:
the periodic compare sees it. Lost events count as changes of everything.
"""

import struct

from agent.network import rtnetlink as rt
from agent.network.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    Channel,
    Events,
    Message,
    attributes,
)
from agent.network.plan import Names

_NFTABLES_GROUP = 7
_NFTABLES = 10 << 8
_NEW_GENERATION, _GET_GENERATION = _NFTABLES | 15, _NFTABLES | 16
_NFGENMSG = struct.pack("=BBH", 0, 0, 0)


class Watch:
    """Two event sockets of the namespace of the thread that made it."""

    def __init__(self, names: Names) -> None:
        self._names = names
        groups = (rt.GROUP_LINK, rt.GROUP_NEIGH, rt.GROUP_IPV4_ADDRESS, rt.GROUP_IPV4_ROUTE)
        self._route = Events(NETLINK_ROUTE, groups)
        self._rules = Events(NETLINK_NETFILTER, (_NFTABLES_GROUP,))
        self._generation = Channel(NETLINK_NETFILTER)

    def filenos(self) -> tuple[int, int]:
        """Descriptors that become readable when something happens."""
        return self._route.fileno(), self._rules.fileno()

    def links_changed(self) -> bool:
        """Whether links, addresses, routes or neighbours changed since last asked."""
        messages = self._route.drain()
        return messages is None or bool(messages)

    def rules_changed(self) -> bool:
        """Whether our table changed since last asked."""
        messages = self._rules.drain()
        return messages is None or any(self._is_ours(each) for each in messages)

    def generation(self) -> int:
        """The rules' generation number: one more after each transaction of anyone."""
        answer = self._generation.get(_GET_GENERATION, _NFGENMSG)
        value = attributes(answer.body, len(_NFGENMSG)).get(1, b"")
        return int.from_bytes(value, "big")

    def close(self) -> None:
        """Close the sockets."""
        self._route.close()
        self._rules.close()
        self._generation.close()

    def _is_ours(self, message: Message) -> bool:
        if message.kind == _NEW_GENERATION:
            return False
        # attribute 1 of every message about tables, chains, rules, sets is the table's name
        name = attributes(message.body, len(_NFGENMSG)).get(1, b"")
        return name.rstrip(b"\0") == self._names.table.encode()
