"""The DNS server of all containers of a host: two sockets in each namespace, one loop.

What is known is answered at once, from memory; the rest is forwarded, within bounds for each
container and for all. The sockets are not made here (`container_names`) and survive this
object, since another process keeps copies: then queries wait in their buffers.
"""

import asyncio
import random
import socket
from collections.abc import Callable, Sequence

import msgspec
import structlog

from agent.network import dns
from agent.network.names import Zone, answer
from agent.network.upstream import OpenSocket, ask

_log = structlog.get_logger(__name__)
_MOST_AT_ONCE = 32
"""Queries of one container before others have their turn."""
_MOST_FORWARDED = 100
_MOST_FORWARDED_ALL = 1000
_MOST_CONNECTIONS = 16
_IDLE_SECONDS = 10.0


class Upstream(msgspec.Struct, frozen=True):
    """Who is asked what is not ours: servers, at each query, and from where."""

    servers: Callable[[], Sequence[str]]
    open_socket: OpenSocket


class Sockets(msgspec.Struct, frozen=True):
    """A container's two sockets at 127.0.0.11:53; not blocking."""

    datagrams: socket.socket
    listener: socket.socket

    def close(self) -> None:
        """Close both."""
        self.datagrams.close()
        self.listener.close()


class _Client:
    """One container."""

    def __init__(self, sockets: Sockets) -> None:
        self.sockets = sockets
        self.upstream: Upstream | None = None
        self.zones: Sequence[Zone] = ()
        self.forwarded = 0
        self.connections = 0
        self.warned = False


class Resolver:
    """Answers as long as `run` runs."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._clients: dict[str, _Client] = {}
        self._forwarded = 0
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for client in self._clients.values():
                    self._listen(client)
                await asyncio.Event().wait()
        finally:
            self._group = None
            for client in self._clients.values():
                _ignore(client)

    def serve(
        self,
        container: str,
        sockets: Sockets,
        zones: Sequence[Zone],
        upstream: Upstream | None,
    ) -> None:
        """Serve a container from now on, or with other zones and another upstream.

        Without an upstream what is not known is a failure.
        """
        client = self._clients.get(container)
        if client is None:
            client = self._clients[container] = _Client(sockets)
            if self._group is not None:
                self._listen(client)
        client.zones, client.upstream = zones, upstream

    def remove(self, container: str) -> None:
        """Serve it no more, and close its sockets."""
        if (client := self._clients.pop(container, None)) is not None:
            _ignore(client)
            client.sockets.close()

    def _listen(self, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(client.sockets.datagrams, self._read, client)
        loop.add_reader(client.sockets.listener, self._accept, client)

    def _read(self, client: _Client) -> None:
        datagrams = client.sockets.datagrams
        for _ in range(_MOST_AT_ONCE):
            try:
                message, sender = datagrams.recvfrom(dns.MOST_UDP)
            except OSError:  # none there; or the report of an answer that nobody wanted
                return
            reply = self._answer(client, message, sender)
            if reply is not None:
                _send(datagrams, reply, sender)

    def _answer(self, client: _Client, message: bytes, sender: tuple[str, int]) -> bytes | None:
        """The answer, or None where it comes later or never."""
        try:
            query = dns.parse(message)
        except dns.Malformed:
            return dns.malformed(message)
        reply = answer(query, message[:2], client.zones, self._chance.shuffle, query.most)
        if reply is not None:
            return reply
        if client.upstream is None or self._group is None or not self._may_forward(client):
            return dns.failure(query, message[:2], dns.SERVER_FAILURE)
        self._group.create_task(self._forward_datagram(client, message, query, sender))
        return None

    def _may_forward(self, client: _Client) -> bool:
        fits = client.forwarded < _MOST_FORWARDED and self._forwarded < _MOST_FORWARDED_ALL
        if not fits and not client.warned:
            _log.warning(
                "a container asks more than can be forwarded", at_once=client.forwarded
            )
        client.warned = not fits
        return fits

    async def _forward_datagram(
        self, client: _Client, message: bytes, query: dns.Query, sender: tuple[str, int]
    ) -> None:
        reply = await self._forward(client, message, query, by_tcp=False)
        if len(reply) > query.most:
            reply = dns.shortened(reply, query)
        if client.sockets.datagrams.fileno() >= 0:
            _send(client.sockets.datagrams, reply, sender)

    async def _forward(
        self, client: _Client, message: bytes, query: dns.Query, *, by_tcp: bool
    ) -> bytes:
        failure = dns.failure(query, message[:2], dns.SERVER_FAILURE)
        upstream = client.upstream
        if upstream is None:
            return failure
        client.forwarded += 1
        self._forwarded += 1
        try:
            servers = upstream.servers()
            reply = await ask(
                servers, message, query, upstream.open_socket, self._chance, by_tcp=by_tcp
            )
        finally:
            client.forwarded -= 1
            self._forwarded -= 1
        return failure if reply is None else reply

    def _accept(self, client: _Client) -> None:
        try:
            connection, _ = client.sockets.listener.accept()
        except OSError:  # gone again
            return
        if self._group is None or client.connections >= _MOST_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        client.connections += 1
        self._group.create_task(self._serve(client, connection))

    async def _serve(self, client: _Client, connection: socket.socket) -> None:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    length = int.from_bytes(await reader.readexactly(2))
                    message = await reader.readexactly(length)
                reply = await self._answer_stream(client, message)
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2) + reply)
                async with asyncio.timeout(_IDLE_SECONDS):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError) as end:
            _log.debug("a connection for names ended", reason=str(end))
        finally:
            client.connections -= 1
            (writer or connection).close()

    async def _answer_stream(self, client: _Client, message: bytes) -> bytes | None:
        try:
            query = dns.parse(message)
        except dns.Malformed:
            return dns.malformed(message)
        identity = message[:2]
        reply = answer(query, identity, client.zones, self._chance.shuffle, dns.MOST_TCP)
        if reply is not None:
            return reply
        if not self._may_forward(client):
            return dns.failure(query, identity, dns.SERVER_FAILURE)
        return await self._forward(client, message, query, by_tcp=True)


def _send(datagrams: socket.socket, reply: bytes, receiver: tuple[str, int]) -> None:
    try:
        datagrams.sendto(reply, receiver)
    except OSError as error:
        _log.debug("an answer was not delivered", reason=str(error))


def _ignore(client: _Client) -> None:
    loop = asyncio.get_running_loop()
    for each in (client.sockets.datagrams, client.sockets.listener):
        if each.fileno() >= 0:
            loop.remove_reader(each)
