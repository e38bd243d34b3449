"""Knocking at other hosts' ports, for what their kernels say before any program does.

A connection that is taken says that somebody listens; one that is refused, that the host lives
and nobody does; silence says neither. Who listens is not woken: the handshake's last packet is
held back, and a reset is what comes instead. (HAProxy's checks of servers do so.)
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from shoal.model.ids import NodeID

LIMIT_SECONDS = 0.35
_RESET = struct.pack("ii", 1, 0)

Question = Callable[[str], Coroutine[Any, Any, bool]]
"""Something asked of an address: `listens`, `refuses`, or what a test has in their place."""


async def listens(address: str) -> bool:
    """Whether something listens at host:port."""
    try:
        await _knock(address)
    except (OSError, TimeoutError):
        return False
    return True


async def refuses(address: str) -> bool:
    """Whether the kernel at host:port lives, and nobody listens there."""
    try:
        await _knock(address)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    return False


async def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as knocking:
        knocking.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        knocking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.get_running_loop().sock_connect(knocking, (host, int(port)))


async def ask_all(question: Question, addresses: Mapping[NodeID, str]) -> Mapping[NodeID, bool]:
    """The answer of each node's address, all asked at once."""
    async with asyncio.TaskGroup() as group:
        answers = {
            node: group.create_task(question(address), name=f"ask {node}")
            for node, address in addresses.items()
        }
    return {node: answer.result() for node, answer in answers.items()}
