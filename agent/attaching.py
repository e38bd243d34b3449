"""How the agent asks for a place on a cluster network for a container that a person started.

Two calls to the managers' dispatcher. Asking again for the same container and network is
answered with the same place, so that whoever is in doubt (after a restart, after a lost answer)
just asks again. The addresses themselves come with the assignments; `agent.swarm` waits for
them.
"""

from collections.abc import Callable, Sequence

import grpc.aio
from msgspec import Struct

from agent.asking import CALL_SECONDS, ask_in_turn
from proto import dispatcher_pb2, dispatcher_pb2_grpc
from shoal.common.identity import CurrentIdentity
from shoal.common.rpc import unary
from shoal.model.assignment import AssignedNetwork, TaskNetwork
from shoal.model.ids import TaskID


class Wish(Struct, frozen=True, kw_only=True):
    """A container and the network it wants, by name or id; addresses without prefix length."""

    network: str
    container_id: str
    container_name: str
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Place(Struct, frozen=True, kw_only=True):
    """What a container has on a cluster network; `task` is what it is given back by."""

    task: TaskID
    network: AssignedNetwork
    place: TaskNetwork


class AttachmentClient:
    """Asks the managers in turn; `managers` gives their addresses, the most trusted first."""

    def __init__(self, current: CurrentIdentity, managers: Callable[[], Sequence[str]]) -> None:
        self._current = current
        self._managers = managers

    async def attach(self, wish: Wish) -> TaskID:
        """The task that stands for the container; a refusal is the cluster's and raised.

        Raises:
            NotFound, PermissionDenied, FailedPrecondition, InvalidArgument: see
                `manager.control.attachments`.
            Unavailable: no manager could be asked.
        """
        request = dispatcher_pb2.AttachNetworkRequest(
            network=wish.network,
            container_id=wish.container_id,
            container_name=wish.container_name,
            aliases=wish.aliases,
            addresses=wish.addresses,
        )

        async def ask(to: grpc.aio.Channel) -> TaskID:
            stub = dispatcher_pb2_grpc.DispatcherStub(to)
            reply = await unary(stub.AttachNetwork, request, seconds=CALL_SECONDS)
            return TaskID(reply.task_id)

        return await ask_in_turn(self._current, self._managers(), ask)

    async def detach(self, task: TaskID) -> None:
        """Give the place back. Idempotent."""
        request = dispatcher_pb2.DetachNetworkRequest(task_id=task)

        async def ask(to: grpc.aio.Channel) -> None:
            stub = dispatcher_pb2_grpc.DispatcherStub(to)
            await unary(stub.DetachNetwork, request, seconds=CALL_SECONDS)

        await ask_in_turn(self._current, self._managers(), ask)
