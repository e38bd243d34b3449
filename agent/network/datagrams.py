"""Relays datagrams: each client's to a socket of its own, and back from the address it asked.

A flow begins with a client's first datagram and ends when neither side has said anything for a
while, or with the port. What cannot be carried is lost, as datagrams may be. Used by `relay`.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

import structlog

from agent.network.dial import Asked, Dial, connected

_log = structlog.get_logger(__name__)

_IDLE_SECONDS = 90.0
_MOST_FLOWS = 1000
_MOST_WAITING = 64
_MOST_BYTES = 65536
_Heard = Callable[[], None]
_PACKET_INFO = struct.Struct("=16sI")
"""`in6_pktinfo`: an address of this host and the number of an interface."""


class _Key(NamedTuple):
    listening: socket.socket
    client: tuple[str, int, int, int]
    info: bytes


def prepare(listening: socket.socket) -> None:
    """Have an IPv6 socket tell which address a datagram was sent to."""
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


class Datagrams:
    """The flows of one host."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._flows: dict[_Key, asyncio.Queue[bytes]] = {}

    def receive(self, listening: socket.socket, group: asyncio.TaskGroup) -> None:
        """Take what waits there, some of it; new flows run in the group.

        Raises:
            OSError: nothing waits any more, or the socket is closed.
        """
        for _ in range(_MOST_WAITING):
            data, ancillary, _, client = listening.recvmsg(
                _MOST_BYTES, socket.CMSG_SPACE(_PACKET_INFO.size)
            )
            key = _Key(listening, client, ancillary[0][2] if ancillary else b"")
            queue = self._flows.get(key)
            if queue is None and key.info and len(self._flows) < _MOST_FLOWS:
                queue = self._flows[key] = asyncio.Queue(_MOST_WAITING)
                group.create_task(self._serve(key, queue))
            if queue is not None:
                with contextlib.suppress(asyncio.QueueFull):
                    queue.put_nowait(data)

    async def _serve(self, key: _Key, queue: asyncio.Queue[bytes]) -> None:
        try:
            address = socket.inet_ntop(socket.AF_INET6, _PACKET_INFO.unpack(key.info)[0])
            port = key.listening.getsockname()[1]
            far = await connected(self._dial, Asked("udp", address, port))
            if far is not None:
                with far:
                    await _carry(key, queue, far)
        except* OSError as gone:  # nobody is there, or the port is published no more
            _log.debug("datagrams not carried", port=key.client[1], reason=str(gone))
        finally:
            del self._flows[key]


async def _carry(key: _Key, queue: asyncio.Queue[bytes], far: socket.socket) -> None:
    """Both ways until both have been silent for a while."""
    loop = asyncio.get_running_loop()

    def heard() -> None:
        silent.reschedule(loop.time() + _IDLE_SECONDS)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_IDLE_SECONDS) as silent, asyncio.TaskGroup() as group:
            group.create_task(_forth(queue, far, heard))
            group.create_task(_back(key, far, heard))


async def _forth(queue: asyncio.Queue[bytes], far: socket.socket, heard: _Heard) -> None:
    while True:
        far.send(await queue.get())
        heard()


async def _back(key: _Key, far: socket.socket, heard: _Heard) -> None:
    loop = asyncio.get_running_loop()
    source = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, key.info)]
    while True:
        data = await loop.sock_recv(far, _MOST_BYTES)
        heard()
        key.listening.sendmsg([data], source, 0, key.client)
