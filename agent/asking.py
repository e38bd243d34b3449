"""A call of this node to the managers: one after another is asked until one answers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc.aio

from shoal.common.identity import CurrentIdentity
from shoal.common.rpc import channel
from shoal.model.errors import Unavailable

CALL_SECONDS = 10.0
"""How long one manager may take."""

T = TypeVar("T")


async def ask_in_turn(
    current: CurrentIdentity,
    managers: Sequence[str],
    call: Callable[[grpc.aio.Channel], Awaitable[T]],
) -> T:
    """The first answer, as this node's present identity; `managers` are addresses.

    Only Unavailable moves on to the next manager: a refusal is the cluster's, and raised.

    Raises:
        Unavailable: no manager could be asked.
    """
    trouble = Unavailable("no manager is known to this node")
    for address in managers:
        try:
            async with channel(address, current.get()) as connection:
                return await call(connection)
        except Unavailable as error:
            trouble = error
    raise trouble
