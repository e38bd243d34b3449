"""Asking other name servers what is not ours to answer.

UDP first, TCP if the client came by TCP and the answer is truncated (a UDP client is told so
and comes again by TCP itself). The host's own servers are asked from the host's namespace,
which reaches those on its loopback; servers given for a container are asked from inside it:
they may be a container of its networks, and it learns nothing that it could not reach itself.
Used by `resolver`.
"""

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import structlog

from agent.network import dns

_log = structlog.get_logger(__name__)
_LIMIT = 4.0
"""Seconds for all attempts; a client's own limit is usually 5."""
_MOST_SERVERS = 3
_PORT = 53

OpenSocket = Callable[[int, int], Awaitable[socket.socket]]
"""Makes a socket of a family and a type in the namespace from which to ask."""


async def open_here(family: int, kind: int) -> socket.socket:
    """A socket in the namespace of this process."""
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class HostServers:
    """The name servers of the host's resolv.conf, read again when the file changes."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._read: tuple[int, int] | None = None
        self._servers: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        state = (status.st_mtime_ns, status.st_ino)
        if state != self._read:
            self._servers = tuple(servers_of(self._path.read_text(errors="replace")))
            self._read = state
        return self._servers


def servers_of(text: str) -> Iterator[str]:
    """The servers that a resolv.conf names."""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            yield words[1]


async def ask(
    servers: Sequence[str],
    message: bytes,
    query: dns.Query,
    open_socket: OpenSocket,
    chance: random.Random,
    *,
    by_tcp: bool,
) -> bytes | None:
    """The first server's answer that is one, under the query's own id; None without any."""
    chosen = [each for each in servers if _is_address(each)][:_MOST_SERVERS]
    if len(chosen) == 1:
        chosen *= 2  # a packet may get lost
    loop = asyncio.get_running_loop()
    end = loop.time() + _LIMIT
    refusal: bytes | None = None
    for number, server in enumerate(chosen):
        identity = chance.getrandbits(16).to_bytes(2)
        try:
            async with asyncio.timeout((end - loop.time()) / (len(chosen) - number)):
                answer = await _ask_one(
                    server, identity + message[2:], query, open_socket, by_tcp=by_tcp
                )
        except (OSError, EOFError, TimeoutError) as error:
            _log.debug("name server does not answer", server=server, reason=str(error))
            continue
        answer = message[:2] + answer[2:]
        if dns.code_of(answer) not in (dns.SERVER_FAILURE, dns.NOT_IMPLEMENTED, dns.REFUSED):
            return answer
        refusal = answer
    return refusal


def _is_address(server: str) -> bool:
    """A name would have to be asked for first, perhaps here."""
    try:
        ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return True


async def _ask_one(
    server: str, message: bytes, query: dns.Query, open_socket: OpenSocket, *, by_tcp: bool
) -> bytes:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with await open_socket(family, socket.SOCK_DGRAM) as made:
        made.connect((server, _PORT))
        answer = await _by_udp(made, message, query)
    if not by_tcp or not dns.is_truncated(answer):
        return answer
    made = await open_socket(family, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(made, (server, _PORT))
        return await _by_tcp(made, message, query)
    finally:
        made.close()


async def _by_udp(made: socket.socket, message: bytes, query: dns.Query) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, message)
    while True:
        answer = await loop.sock_recv(made, dns.MOST_TCP)
        if dns.answers(answer, query, message[:2]):
            return answer


async def _by_tcp(made: socket.socket, message: bytes, query: dns.Query) -> bytes:
    reader, writer = await asyncio.open_connection(sock=made)
    try:
        writer.write(len(message).to_bytes(2) + message)
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()
    if not dns.answers(answer, query, message[:2]):
        raise EOFError("the answer is to another question")
    return answer
