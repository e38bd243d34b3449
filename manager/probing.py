"""Knocking at other hosts' ports, for what their kernels say before any program does.

A connection that is taken says that somebody listens; one that is refused, that the host lives
and nobody does; silence says neither.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from shoal.model.ids import NodeID

LIMIT_SECONDS = 0.35

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
    async with asyncio.timeout(LIMIT_SECONDS):
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.close()


async def ask_all(question: Question, addresses: Mapping[NodeID, str]) -> Mapping[NodeID, bool]:
    """The answer of each node's address, all asked at once."""
    async with asyncio.TaskGroup() as group:
        answers = {
            node: group.create_task(question(address), name=f"ask {node}")
            for node, address in addresses.items()
        }
    return {node: answer.result() for node, answer in answers.items()}
