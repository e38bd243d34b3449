"""Sockets to where a published port leads, in the host's namespace. Used by the relays."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from agent.network.desired import Protocol

_SECONDS = 10.0


class Asked(NamedTuple):
    """What a client asked for: protocol, address of this host, published port."""

    protocol: Protocol
    address: str
    port: int


Dialled = tuple[socket.socket, tuple[str, int]]
Dial = Callable[[Asked], Awaitable[Dialled | None]]
"""A socket of the host's namespace and where to connect it; None: the port leads nowhere."""


def open_socket(protocol: Protocol, family: int) -> socket.socket:
    """A socket of the calling thread's namespace that does not block.

    Raises:
        OSError: this kernel has no such protocol.
    """
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    made = socket.socket(family, kind, socket.IPPROTO_SCTP if protocol == "sctp" else 0)
    made.setblocking(False)
    return made


async def connected(dial: Dial, asked: Asked) -> socket.socket | None:
    """A socket that is connected to where the port leads; None if that is nowhere."""
    dialled = await dial(asked)
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
