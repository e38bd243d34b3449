"""Stdio of a container or exec: one connection to conmon, shared by all who are attached.

conmon stops the container while an attacher does not read. So there is a connection only while
somebody is attached, it is always drained, and an attachment that lags by more than a bounded
buffer is dropped. Called by the driver.
"""

import asyncio
import os
import socket
from collections import deque
from pathlib import Path

from agent.runtime.oci.conmon import ATTACH
from agent.runtime.runtime import STDERR, STDOUT
from shoal.model.errors import Conflict, FailedPrecondition

BUFFER = 4 << 20  # bytes an attachment may lag behind
_PACKET = 8193  # one byte names the stream; conmon reads 8192 at most
_CHUNK = 8192
_BURST = 64  # packets before others on the loop get their turn


class ConsoleAttachment:
    """One attacher; see `agent.runtime.runtime.Attachment`."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._items: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._ended = False
        self._stdin_open = True
        self._changed = asyncio.Event()
        self._dropped = False

    @property
    def dropped(self) -> bool:
        return self._dropped

    def __aiter__(self) -> "ConsoleAttachment":
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self._size -= len(item[1])
        return item

    async def write(self, data: bytes) -> None:
        if not self._stdin_open:
            raise FailedPrecondition("stdin of this attachment is closed")
        await self._console.write(data)

    async def close_stdin(self) -> None:
        if self._stdin_open:
            self._stdin_open = False
            await self._console.close_stdin()

    async def detach(self) -> None:
        self.end()
        self._console.release(self)

    def push(self, stream: int, data: bytes) -> None:
        """Called by the console: buffer, or drop an attacher that lags too far."""
        if self._size + len(data) > BUFFER:
            self._dropped = True
            self._items.clear()
            self.end()
            self._console.release(self)
            return
        self._items.append((stream, data))
        self._size += len(data)
        self._changed.set()

    def end(self) -> None:
        """No more output comes; what is buffered may still be read."""
        self._ended = True
        self._changed.set()


class Console:
    """The connection to one conmon.

    `half_close`: stdin ends with the first attacher that closes it. Until that moment the
    connection stays even without attachers, because conmon takes its loss for the end of stdin.
    """

    def __init__(self, directory: Path, *, stdin: bool, half_close: bool) -> None:
        self._directory = directory
        self._half_close = half_close
        self._stdin_open = stdin
        self._socket: socket.socket | None = None
        self._attachments: set[ConsoleAttachment] = set()
        # Two senders on one descriptor would replace each other's wakeup in the event loop.
        self._sending = asyncio.Lock()

    def attach(self) -> ConsoleAttachment:
        """Join; connects first where nobody is attached yet."""
        if self._socket is None:
            self._connect()
        attachment = ConsoleAttachment(self)
        self._attachments.add(attachment)
        return attachment

    async def write(self, data: bytes) -> None:
        """Send to stdin."""
        async with self._sending:
            if not self._stdin_open or self._socket is None:
                raise FailedPrecondition("stdin is closed")
            try:
                for at in range(0, len(data), _CHUNK):
                    await asyncio.get_running_loop().sock_sendall(
                        self._socket, data[at : at + _CHUNK]
                    )
            except (OSError, ValueError) as error:
                self._stdin_open = False
                raise FailedPrecondition("stdin is closed: the process has ended") from error

    async def close_stdin(self) -> None:
        """Pass the end of stdin on, where the container is made so."""
        async with self._sending:
            if self._half_close and self._stdin_open and self._socket is not None:
                self._stdin_open = False
                try:
                    self._socket.shutdown(socket.SHUT_WR)
                except OSError:
                    return  # it has ended; there is no stdin to close
        if not self._attachments:
            self.close()

    def release(self, attachment: ConsoleAttachment) -> None:
        """Forget an attachment; the last one takes the connection along."""
        self._attachments.discard(attachment)
        if not self._attachments and not (self._half_close and self._stdin_open):
            self.close()

    def close(self) -> None:
        """Disconnect and end all attachments."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for attachment in self._attachments:
            attachment.end()
        self._attachments.clear()

    def _connect(self) -> None:
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            # The directory's own path may pass the 108 bytes that a socket's address holds.
            connection.connect(f"/proc/self/fd/{directory}/{ATTACH}")
        except OSError as error:
            connection.close()
            raise Conflict(
                "You cannot attach to a stopped container, start it first"
            ) from error
        finally:
            os.close(directory)
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection, self._drain)

    def _drain(self) -> None:
        for _ in range(_BURST):
            if self._socket is None:
                return
            try:
                packet = self._socket.recv(_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.close()
                return
            stream = STDERR if packet[0] == 3 else STDOUT
            for attachment in tuple(self._attachments):
                attachment.push(stream, packet[1:])
