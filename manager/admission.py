"""Taking managers into the replicated store and out of it again: gRPC for managers.

The joiner (`manager.enrolment`) asks; the Raft side is `manager.member.Membership`, the node's
entry in the cluster's list is written here, in the same call that lets it vote. Removal serves
a manager that leaves by itself; demotion is carried out by `manager.roles`.
"""

from typing import Any

import msgspec
import structlog
from typing_extensions import override

from manager.member import Membership
from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.memory import Memory
from proto import members_pb2, members_pb2_grpc
from shoal.common.clock import Clock
from shoal.common.rpc import MANAGERS, Access
from shoal.common.tls import peer_of_call
from shoal.model.changes import Group, Update
from shoal.model.errors import NotFound, PermissionDenied, Unavailable
from shoal.model.ids import NodeID
from shoal.model.objects import ManagerInfo, Node
from shoal.model.states import NodeRole

ACCESS: Access = {
    "/shoal.Members/Admit": MANAGERS,
    "/shoal.Members/Promote": MANAGERS,
    "/shoal.Members/Standing": MANAGERS,
    "/shoal.Members/Remove": MANAGERS,
}
ATTEMPTS = 5

_log = structlog.get_logger(__name__)


class Roster:
    """The cluster's list of managers: who is in it, and changes to it."""

    def __init__(
        self,
        membership: Membership,
        memory: Memory,
        commit: Commit,
        barrier: Barrier,
        clock: Clock,
    ) -> None:
        self._membership = membership
        self._memory = memory
        self._commit = commit
        self._barrier = barrier
        self._clock = clock

    async def enter(self, node: NodeID, info: ManagerInfo) -> None:
        """Write a node's entry as a manager; idempotent."""
        await self._change(node, NodeRole.MANAGER, info)

    async def remove(self, node: NodeID) -> None:
        """Out of the store's members, then out of the list. Refuses to lose the quorum."""
        await self._barrier.reached()
        found = self._memory.node(node)
        if found is None:
            raise NotFound(f"node {node} not found")
        try:
            member = await self._membership.find(node)
        except NotFound:
            _log.info("no member to remove", node=node)
        else:
            await self._membership.remove(member.id, self.reachable())
        await self._change(node, NodeRole.WORKER, None)

    def reachable(self) -> frozenset[str]:
        """Managers whose agents hold a session: their hosts are up."""
        return frozenset(
            node.id for node in self._memory.nodes() if node.manager is not None and node.heard
        )

    async def _change(self, node: NodeID, role: NodeRole, info: ManagerInfo | None) -> None:
        for _ in range(ATTEMPTS):
            await self._barrier.reached()
            found = self._memory.node(node)
            if found is None:
                raise NotFound(f"node {node} not found")
            if found.manager == info and found.role is role:
                return
            entry: Node = msgspec.structs.replace(
                found,
                role=role,
                manager=info,
                spec=msgspec.structs.replace(found.spec, role=role.value),
                updated_at=self._clock.now(),
            )
            outcome = await self._commit.commit([Group((Update(entry),), "manager list")])
            await self._memory.reached(outcome.revision)
            if not outcome.clashed:
                return
        raise Unavailable(f"node {node} is being changed by others, try again", retry_after=1.0)


class AdmissionService(members_pb2_grpc.MembersServicer):
    """Serves `Members`."""

    def __init__(
        self,
        membership: Membership,
        roster: Roster,
        memory: Memory,
        barrier: Barrier,
        data_key: bytes,
    ) -> None:
        self._membership = membership
        self._roster = roster
        self._memory = memory
        self._barrier = barrier
        self._data_key = data_key

    @override
    async def Admit(
        self, request: members_pb2.AdmitRequest, context: Any
    ) -> members_pb2.AdmitResponse:
        node = await self._caller(context)
        admission = await self._membership.add_learner(node, request.peer_url)
        return members_pb2.AdmitResponse(
            member=admission.member,
            peers=[members_pb2.StorePeer(name=p.name, url=p.url) for p in admission.peers],
            data_key=self._data_key,
        )

    @override
    async def Promote(
        self, request: members_pb2.PromoteRequest, context: Any
    ) -> members_pb2.PromoteResponse:
        node = await self._caller(context)
        await self._membership.promote(request.member)
        await self._roster.enter(
            node,
            ManagerInfo(
                addr=request.address,
                join_addr=request.join_address,
                member=f"{request.member:x}",
            ),
        )
        return members_pb2.PromoteResponse()

    @override
    async def Standing(
        self, request: members_pb2.StandingRequest, context: Any
    ) -> members_pb2.StandingResponse:
        await self._caller(context)
        held = await self._membership.holds(request.peer_url)
        return members_pb2.StandingResponse(member=held)

    @override
    async def Remove(
        self, request: members_pb2.RemoveRequest, context: Any
    ) -> members_pb2.RemoveResponse:
        await self._caller(context)
        await self._roster.remove(NodeID(request.node_id))
        return members_pb2.RemoveResponse()

    async def _caller(self, context: Any) -> NodeID:
        """The calling node; it must be wanted as a manager, by the store's present word.

        A node that joined through another manager a moment ago is not in memory here yet.
        """
        await self._barrier.reached()
        node = NodeID(peer_of_call(context).node_id)
        found = self._memory.node(node)
        if found is None or found.spec.role != NodeRole.MANAGER.value:
            raise PermissionDenied(f"node {node} is not a manager of this cluster")
        return node
