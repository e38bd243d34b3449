"""Published TCP ports where the kernel's rules do not lead: `[::1]`, IPv6 to an IPv4 container.

An answer cannot come back to `::1` from another interface, and an IPv4 container has no IPv6
address to lead to. So the sockets that reserve the ports listen, and what is accepted there is
copied to where the port leads in IPv4. A packet that the rules lead elsewhere never comes here.
Without rules, nobody is served: the connection is reset. `host_network` runs it.
"""

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

_CHUNK = 65536
_SECONDS = 10.0
_RESET = struct.pack("ii", 1, 0)

Dial = Callable[[int], Awaitable[tuple[socket.socket, tuple[str, int]] | None]]
"""A socket of the host's namespace for a published port, and where to connect it."""


class Listeners:
    """Listening sockets that come and go in the network's thread; read from the loop's."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self._epoll.fileno()

    def add(self, listening: socket.socket) -> None:
        """From now on; closing the socket ends it."""
        listening.setblocking(False)
        self._sockets[listening.fileno()] = listening
        self._epoll.register(listening.fileno(), select.EPOLLIN)

    def discard(self, listening: socket.socket) -> None:
        """Call before it is closed."""
        if self._sockets.pop(listening.fileno(), None) is not None:
            self._epoll.unregister(listening.fileno())

    def accept(self) -> Iterator[socket.socket]:
        """The connections that wait, at most one of each listener."""
        for fileno, _ in self._epoll.poll(0):
            listening = self._sockets.get(fileno)
            if listening is not None:
                with contextlib.suppress(OSError):  # gone meanwhile
                    yield listening.accept()[0]

    def close(self) -> None:
        """Forget all."""
        self._sockets.clear()
        self._epoll.close()


class Relay:
    """Copies accepted connections to where their ports lead."""

    def __init__(self, listeners: Listeners, dial: Dial) -> None:
        self._listeners = listeners
        self._dial = dial

    async def run(self) -> None:
        """In the owner's TaskGroup, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            fileno = self._listeners.fileno()
            loop.add_reader(fileno, self._accept, group)
            try:
                await asyncio.Event().wait()
            finally:
                loop.remove_reader(fileno)

    def _accept(self, group: asyncio.TaskGroup) -> None:
        for accepted in self._listeners.accept():
            if accepted.family == socket.AF_INET6:
                group.create_task(self._serve(accepted))
            else:  # the rules are missing at this moment
                _reset(accepted)

    async def _serve(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            dialled = await self._connected(accepted.getsockname()[1])
        except BaseException:
            _reset(accepted)
            raise
        if dialled is None:
            _reset(accepted)
            return
        near = await asyncio.open_connection(sock=accepted)
        far = await asyncio.open_connection(sock=dialled)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(near[0], far[1]))
                group.create_task(_copy(far[0], near[1]))
        except* OSError:
            near[1].transport.abort()
            far[1].transport.abort()
        finally:
            near[1].close()
            far[1].close()

    async def _connected(self, port: int) -> socket.socket | None:
        dialled = await self._dial(port)
        if dialled is None:
            return None
        made, target = dialled
        try:
            async with asyncio.timeout(_SECONDS):
                await asyncio.get_running_loop().sock_connect(made, target)
        except (OSError, TimeoutError):
            made.close()
            return None
        except BaseException:
            made.close()
            raise
        return made


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()


def _reset(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    accepted.close()
