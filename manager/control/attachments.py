"""Persons' containers on attachable networks: attached and detached by the node that has them.

A container on a network is a task without a service. Its id follows from node, container and
network, so that a node may ask again, of any manager, as often as it likes. Addresses are the
leader's to give; the request waits for them.
"""

from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from manager.control.lookup import find_network
from manager.control.waiting import shows
from manager.control.writing import Writer
from manager.store.memory import Memory
from shoal.common.clock import Clock
from shoal.model.addresses import bare, family_of, number_of, text_of
from shoal.model.changes import Create, Delete, Group
from shoal.model.errors import Conflict, FailedPrecondition, PermissionDenied, Unavailable
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID
from shoal.model.objects import Attached, Network, Task, TaskStatus
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import TaskState
from shoal.model.validate.refusal import invalid, missing

PATIENCE = 5.0

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 25


class Wish(Struct, frozen=True, kw_only=True):
    """What a node asks for one of its containers; `network` is a name or an id."""

    network: str
    container_id: str
    container_name: str
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Attachments:
    """The operations on containers that stand on cluster networks.

    `patience`: how long a request waits for addresses, which take a leader some milliseconds.
    """

    def __init__(
        self, writer: Writer, memory: Memory, clock: Clock, *, patience: float = PATIENCE
    ) -> None:
        self._writer = writer
        self._memory = memory
        self._clock = clock
        self._patience = patience

    async def attach(self, node: NodeID, wish: Wish) -> Task:
        """The task that stands for the container, with its addresses.

        Raises:
            NotFound: there is no such network.
            PermissionDenied: it takes no containers by hand, or the node is no member.
            FailedPrecondition: an address is not to be had, with the reason.
            Unavailable: nobody gave addresses in time; ask again.
        """
        wish = _checked(wish)

        def decide() -> tuple[Group, TaskID]:
            if self._memory.node(node) is None:
                raise PermissionDenied(
                    f"node {node} is not a member of this cluster (any more)"
                )
            network = find_network(self._memory, wish.network)
            if not network.spec.attachable:
                raise PermissionDenied(f"network {network.name} not manually attachable")
            made = self._made(node, network, wish)
            present = self._memory.task(made.id)
            if present is not None:
                _check_same(present, wish)
                return Group(()), made.id
            reason = f"container {wish.container_name} attached to {network.name}"
            return Group((Create(made),), reason), made.id

        return await self._placed(node, await self._writer.write(decide))

    def _made(self, node: NodeID, network: Network, wish: Wish) -> Task:
        now = self._clock.now()
        return Task(
            id=task_id(node, wish.container_id, network.id),
            service_id=ServiceID(""),
            spec_version=0,
            service_spec=ServiceSpec(),
            created_at=now,
            updated_at=now,
            node_id=node,
            status=TaskStatus(state=TaskState.NEW, timestamp=now, message="created"),
            attached=Attached(
                network_id=network.id,
                container_id=wish.container_id,
                container_name=wish.container_name,
                aliases=wish.aliases,
                addresses=wish.addresses,
            ),
        )

    async def _placed(self, node: NodeID, identity: TaskID) -> Task:
        """Wait until the leader has given it addresses; what it refuses is taken back."""

        def settled() -> bool:
            task = self._memory.task(identity)
            return task is None or bool(task.networks or task.status.err)

        if not await shows(self._memory, settled, self._patience):
            raise Unavailable(
                "no leader has given the container an address yet", retry_after=1.0
            )
        task = self._memory.task(identity)
        if task is None:
            raise Conflict("the container was detached at the same moment")
        if task.networks:
            return task
        await self.detach(node, identity)
        raise FailedPrecondition(task.status.err)

    async def detach(self, node: NodeID, identity: TaskID) -> None:
        """The container has left, or is gone. Idempotent."""

        def decide() -> tuple[Group, None]:
            task = self._memory.task(identity)
            if task is None:
                return Group(()), None
            if task.attached is None or task.node_id != node:
                raise PermissionDenied(f"task {identity} is no container attached by this node")
            return Group((Delete(task),), f"container {task.name} detached"), None

        await self._writer.write(decide)


def task_id(node: NodeID, container: str, network: NetworkID) -> TaskID:
    """The one id that a container on a network can have."""
    digest = blake2b(f"{node}/{container}/{network}".encode(), digest_size=16).digest()
    number = int.from_bytes(digest)
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return TaskID("".join(reversed(digits)))


def _checked(wish: Wish) -> Wish:
    """With its addresses as addresses are written."""
    if not wish.container_id:
        raise invalid("ContainerID", "a container must be named by its id")
    if not wish.network:
        raise missing("network", wish.network)
    found: dict[int, str] = {}
    for address in wish.addresses:
        try:
            family, number = family_of(address), number_of(address)
        except ValueError:
            raise invalid("Addresses", f"{address!r} is not an IP address") from None
        if family in found:
            raise invalid("Addresses", f"more than one IPv{family} address is asked for")
        found[family] = text_of(number, family)
    return replace(wish, addresses=tuple(found.values()))


def _check_same(present: Task, wish: Wish) -> None:
    """Asked again, a container is told what it has; it cannot ask for other addresses."""
    if present.attached is None:
        raise Conflict(f"task {present.id} is no attached container")
    has = {bare(address) for place in present.networks for address in place.addresses}
    if present.networks and not set(wish.addresses) <= has:
        raise Conflict(
            f"container {present.name} is on the network already, with"
            f" {', '.join(sorted(has))}: disconnect it first"
        )
