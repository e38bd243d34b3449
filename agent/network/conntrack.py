"""Forget flows without connections that still go to a backend which is no more.

The kernel decides where a flow goes at its first packet and keeps to it as long as packets
come, so a client that never pauses would go on sending to a task that has ended. TCP needs no
such thing: its connections stay with their backend on purpose. `instance` calls it for
published ports, `container_rules` for virtual IPs, after a change.
"""

import errno
import socket
import struct
from collections.abc import Callable, Collection, Mapping

import msgspec

from agent.network.netlink import (
    Channel,
    Message,
    Request,
    attribute,
    attributes,
)

_GET, _DELETE, _GET_STATISTICS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5
_NESTED = 0x8000
_ORIGINAL, _REPLY, _IP, _PROTO = 1, 2, 1, 2
_FAMILIES = {4: (socket.AF_INET, 1, 2), 16: (socket.AF_INET6, 3, 4)}
"""By the length of an address: the family, attributes of source and destination."""
_ICMP6 = 58
_CONNECTIONLESS = (socket.IPPROTO_UDP, socket.IPPROTO_ICMP, _ICMP6)


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked flow: the address and port the client asked for, and who answers."""

    family: int
    protocol: int
    asked: str
    port: int
    target: tuple[str, int]
    original: bytes


def forget_stale(channel: Channel, backends: Mapping[int, Collection[tuple[str, int]]]) -> int:
    """Forget the flows to these published UDP ports that go to none of their backends."""
    if not count_flows(channel):
        return 0
    return _forget(
        channel,
        socket.AF_UNSPEC,
        lambda flow: (
            flow.protocol == socket.IPPROTO_UDP
            and flow.port in backends
            and flow.target not in backends[flow.port]
        ),
    )


def forget_flows(channel: Channel, lost: Collection[tuple[str, str]]) -> int:
    """Forget UDP flows and pings from these asked addresses to these that answer, any port."""
    if not count_flows(channel):
        return 0
    return sum(
        _forget(channel, family, lambda flow: (flow.asked, flow.target[0]) in lost)
        for family, mark in ((socket.AF_INET, "."), (socket.AF_INET6, ":"))
        if any(mark in asked for asked, _ in lost)
    )


def count_flows(channel: Channel) -> int:
    """Of the namespace's flows. A dump walks the whole machine's table, some milliseconds."""
    answer = channel.get(_GET_STATISTICS, struct.pack("=BBH", 0, 0, 0))
    return int.from_bytes(attributes(answer.body, 4).get(1, b""), "big")


def _forget(channel: Channel, family: int, stale: Callable[[Flow], bool]) -> int:
    head = struct.pack("=BBH", family, 0, 0)
    flows = [parse_flow(each) for each in channel.dump(_GET, head)]
    requests = [
        Request(
            f"forget flow to {flow.asked} port {flow.port}",
            _DELETE,
            0,
            struct.pack("=BBH", flow.family, 0, 0)
            + attribute(_ORIGINAL | _NESTED, flow.original),
            (errno.ENOENT,),
        )
        for flow in flows
        if flow is not None and stale(flow)
    ]
    channel.apply(requests)
    return len(requests)


def parse_flow(message: Message) -> Flow | None:
    """A flow of a dump, None if it is of a protocol with connections."""
    found = attributes(message.body, 4)
    original = attributes(found.get(_ORIGINAL, b""), 0)
    reply = attributes(found.get(_REPLY, b""), 0)
    asked = attributes(original.get(_PROTO, b""), 0)
    answering = attributes(reply.get(_PROTO, b""), 0)
    protocol = int.from_bytes(asked.get(1, b""), "big")
    addresses = attributes(original.get(_IP, b""), 0)
    answers = attributes(reply.get(_IP, b""), 0)
    family, source, destination = _FAMILIES[16 if 3 in addresses else 4]
    if protocol not in _CONNECTIONLESS or destination not in addresses or source not in answers:
        return None
    return Flow(
        family=family,
        protocol=protocol,
        asked=socket.inet_ntop(family, addresses[destination]),
        port=int.from_bytes(asked.get(3, b""), "big"),
        target=(
            socket.inet_ntop(family, answers[source]),
            int.from_bytes(answering.get(2, b""), "big"),
        ),
        original=found[_ORIGINAL],
    )
