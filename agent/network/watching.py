"""What others did to our kernel objects: event sockets, read down to two yes-or-no answers.

Our own changes appear among the events too; `instance` drains before and after each of its own,
and compares the rules' generation number, so that only others' count. A sysctl sends no event:
the periodic compare sees it. Lost events count as changes of everything.
"""

import struct
from collections.abc import Mapping

from agent.network import rtnetlink as rt
from agent.network import rtnetlink_format as fmt
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
_FIREWALLS = ("filter", "firewalld")
"""The tables of iptables, which Docker uses, and of firewalld."""
_NFGENMSG = struct.pack("=BBH", 0, 0, 0)


class Watch:
    """Two event sockets of the namespace of the thread that made it."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._route = Events(
            NETLINK_ROUTE,
            (
                fmt.GROUP_LINK,
                fmt.GROUP_NEIGH,
                fmt.GROUP_IPV4_ADDRESS,
                fmt.GROUP_IPV4_ROUTE,
                fmt.GROUP_IPV6_ADDRESS,
                fmt.GROUP_IPV6_ROUTE,
            ),
        )
        self._rules = Events(NETLINK_NETFILTER, (_NFTABLES_GROUP,))
        self._generation = Channel(NETLINK_NETFILTER)
        self._firewalls_changed = True

    def filenos(self) -> tuple[int, int]:
        """Descriptors that become readable when something happens."""
        return self._route.fileno(), self._rules.fileno()

    def links_changed(self, known: Mapping[str, rt.Link]) -> bool:
        """Whether our links, their addresses, routes or entries changed since last asked.

        `known` are the links as they were left. What containers' links and the bridges'
        own neighbours go through all day is no change.
        """
        messages = self._route.drain()
        if messages is None:
            return True
        devices = {
            link.index: link
            for name, link in known.items()
            if self._names.owns(name) and not self._names.is_veth(name)
        }
        return any(self._concerns(each, known, devices) for each in messages)

    def _concerns(
        self, message: Message, known: Mapping[str, rt.Link], devices: Mapping[int, rt.Link]
    ) -> bool:
        match message.kind:
            case fmt.NEWLINK | fmt.DELLINK:
                return self._is_foreign_link(message, known, devices)
            case fmt.NEWADDR | fmt.DELADDR:
                return rt.index_in(message) in devices
            case fmt.NEWNEIGH | fmt.DELNEIGH:
                device = devices.get(rt.index_in(message))
                return device is not None and device.kind == "vxlan"
            case fmt.NEWROUTE | fmt.DELROUTE:
                return rt.route_index(message) in devices
            case _:
                return False

    def _is_foreign_link(
        self, message: Message, known: Mapping[str, rt.Link], devices: Mapping[int, rt.Link]
    ) -> bool:
        link = rt.parse_link(message)
        if not self._names.owns(link.name):
            return False
        if self._names.is_veth(link.name):  # its end ends with its container
            gone = message.kind == fmt.DELLINK
            return not gone and not (link.up and link.master in devices)
        before = known.get(link.name)
        if before is None or (message.kind == fmt.DELLINK and link.index == before.index):
            return True
        return (link.up, link.mtu, link.mac) != (before.up, before.mtu, before.mac)

    def rules_changed(self) -> bool:
        """Whether our table changed since last asked."""
        messages = self._rules.drain()
        if messages is None:
            self._firewalls_changed = True
            return True
        tables = {_table(each) for each in messages}
        self._firewalls_changed |= not tables.isdisjoint(_FIREWALLS)
        return self._names.table in tables

    def firewalls_changed(self) -> bool:
        """Whether a table of another firewall did; asks no more than `rules_changed` did."""
        changed, self._firewalls_changed = self._firewalls_changed, False
        return changed

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


def _table(message: Message) -> str:
    if message.kind == _NEW_GENERATION:
        return ""
    # attribute 1 of every message about tables, chains, rules, sets is the table's name
    name = attributes(message.body, len(_NFGENMSG)).get(1, b"")
    return name.rstrip(b"\0").decode(errors="replace")
