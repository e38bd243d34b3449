"""Published ports where the kernel's rules do not lead: `[::1]`, IPv6 to an IPv4 container.

An answer cannot come back to `::1` from another interface, and an IPv4 container has no IPv6
address to lead to. So the sockets that reserve the ports listen, and what reaches them is
copied to where the port leads: connections (TCP, SCTP) here, datagrams by `datagrams`. A packet
that the rules lead elsewhere never comes here. Without rules, nobody is served: a connection is
reset, a datagram lost. `host_network` runs it.
"""

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Iterator

from agent.network.datagrams import Datagrams
from agent.network.desired import Protocol
from agent.network.dial import Asked, Dial, connected

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)


class Listeners:
    """Listening sockets that come and go in the network's thread; read from the loop's."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[Protocol, socket.socket]] = {}

    def fileno(self) -> int:
        """Readable when a connection or datagram waits."""
        return self._epoll.fileno()

    def add(self, protocol: Protocol, listening: socket.socket) -> None:
        """From now on; closing the socket ends it."""
        listening.setblocking(False)
        self._sockets[listening.fileno()] = (protocol, listening)
        self._epoll.register(listening.fileno(), select.EPOLLIN)

    def discard(self, listening: socket.socket) -> None:
        """Call before it is closed; one that is not here is no error."""
        if self._sockets.pop(listening.fileno(), None) is not None:
            self._epoll.unregister(listening.fileno())

    def ready(self) -> Iterator[tuple[Protocol, socket.socket]]:
        """Those at which something waits."""
        for fileno, _ in self._epoll.poll(0):
            known = self._sockets.get(fileno)
            if known is not None:
                yield known

    def close(self) -> None:
        """Forget all."""
        self._sockets.clear()
        self._epoll.close()


class Relay:
    """Copies what comes to the listeners to where their ports lead."""

    def __init__(self, listeners: Listeners, dial: Dial) -> None:
        self._listeners = listeners
        self._dial = dial
        self._datagrams = Datagrams(dial)

    async def run(self) -> None:
        """In the owner's TaskGroup, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            fileno = self._listeners.fileno()
            loop.add_reader(fileno, self._look, group)
            try:
                await asyncio.Event().wait()
            finally:
                loop.remove_reader(fileno)

    def _look(self, group: asyncio.TaskGroup) -> None:
        """At most one connection of each listener, and some datagrams."""
        for protocol, listening in self._listeners.ready():
            with contextlib.suppress(OSError):  # gone meanwhile
                if protocol == "udp":
                    self._datagrams.receive(listening, group)
                    continue
                accepted = listening.accept()[0]
                if accepted.family == socket.AF_INET6:
                    group.create_task(self._serve(protocol, accepted))
                else:  # the rules are missing at this moment
                    _reset(accepted)

    async def _serve(self, protocol: Protocol, near: socket.socket) -> None:
        near.setblocking(False)
        try:
            address, port = near.getsockname()[:2]
            far = await connected(self._dial, Asked(protocol, address, port))
        except BaseException:
            _reset(near)
            raise
        if far is None:
            _reset(near)
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(near, far))
                group.create_task(_copy(far, near))
        except* OSError:
            _reset(far)
            _reset(near)
        finally:
            far.close()
            near.close()


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Until the end of one direction; what is a message of SCTP stays one."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):  # it ended both ways by itself
        sink.shutdown(socket.SHUT_WR)


def _reset(accepted: socket.socket) -> None:
    with contextlib.suppress(OSError):
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    accepted.close()
