"""What the handlers need beside the operations: doors to agents, the leader, leaving.

The composition root implements these; the operations are `manager.control`'s.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from manager.control.operations import Operations
from shoal.common.clock import Clock
from shoal.common.engine_http.call import Call
from shoal.model.ids import NodeID

LOCAL_READ = "X-Shoal-Read"
"""With the value `local` a request is answered from this manager's memory as it is."""


class Line(Struct, frozen=True):
    """An open connection to an agent's Engine API, nothing said on it yet."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class AgentDoor(Protocol):
    """Opens connections to the Engine APIs of agents (mTLS TCP, as this manager)."""

    async def open(self, node: NodeID) -> Line:
        """A new connection to that node's agent; the caller closes its writer.

        `Unavailable` with a sentence that names the node where it does not answer within a
        few seconds; `NotFound` where the cluster knows no such node or address.
        """
        ...


class Membership(Protocol):
    """This host's being in the cluster."""

    async def leave(self, *, force: bool) -> None:
        """Have this host leave; returns once that is under way and survives a crash.

        Without `force` a manager refuses (`Unavailable`, with the arithmetic of the quorum).
        """
        ...


class Backend:
    """All that handlers reach.

    Args:
        operations: the cluster's operations.
        leader: who leads now, as this manager last heard; None if nobody.
        door: to the agents.
        membership: this host's.
    """

    def __init__(
        self,
        operations: Operations,
        leader: Callable[[], NodeID | None],
        door: AgentDoor,
        membership: Membership,
        clock: Clock,
    ) -> None:
        self.operations = operations
        self.leader = leader
        self.door = door
        self.membership = membership
        self.clock = clock

    async def read(self, call: Call) -> Operations:
        """The operations, once memory shows the present; at once for a local read."""
        if call.request.headers.get(LOCAL_READ, "").lower() != "local":
            await self.operations.barrier.reached()
        return self.operations
