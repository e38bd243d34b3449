"""Forget UDP flows that still go to a backend which is no more.

The kernel decides where a flow goes at its first packet and keeps to it as long as packets
come, so a client that never pauses would go on sending to a task that has ended. TCP needs no
such thing: its connections stay with their backend on purpose. `instance` calls it after a
change.
"""

import errno
import socket
import struct
from collections.abc import Collection, Mapping

import msgspec

from agent.network.netlink import (
    Channel,
    Message,
    Request,
    attribute,
    attributes,
)

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_NFGENMSG = struct.pack("=BBH", socket.AF_INET, 0, 0)
_NESTED = 0x8000
_ORIGINAL, _REPLY, _IP, _PROTO = 1, 2, 1, 2


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked UDP flow: the port the client asked for, and who answers."""

    port: int
    target: tuple[str, int]
    original: bytes


def forget_stale(channel: Channel, backends: Mapping[int, Collection[tuple[str, int]]]) -> int:
    """Forget the flows to these published UDP ports that go to none of their backends."""
    flows = [parse_flow(each) for each in channel.dump(_GET, _NFGENMSG)]
    stale = [
        flow
        for flow in flows
        if flow is not None and flow.port in backends and flow.target not in backends[flow.port]
    ]
    channel.apply(
        [
            Request(
                f"forget UDP flow to port {flow.port}",
                _DELETE,
                0,
                _NFGENMSG + attribute(_ORIGINAL | _NESTED, flow.original),
                (errno.ENOENT,),
            )
            for flow in stale
        ]
    )
    return len(stale)


def parse_flow(message: Message) -> Flow | None:
    """A flow of a dump, None if it is not UDP over IPv4."""
    found = attributes(message.body, len(_NFGENMSG))
    original = attributes(found.get(_ORIGINAL, b""), 0)
    reply = attributes(found.get(_REPLY, b""), 0)
    asked = attributes(original.get(_PROTO, b""), 0)
    answering = attributes(reply.get(_PROTO, b""), 0)
    source = attributes(reply.get(_IP, b""), 0).get(1, b"")
    if asked.get(1, b"") != bytes([socket.IPPROTO_UDP]) or len(source) != 4:
        return None
    return Flow(
        port=int.from_bytes(asked.get(3, b""), "big"),
        target=(socket.inet_ntoa(source), int.from_bytes(answering.get(2, b""), "big")),
        original=found[_ORIGINAL],
    )
