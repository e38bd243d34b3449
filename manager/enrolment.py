"""How this host's manager gets into the store: its etcd, its place among members.

A founder (`manager.founding`) makes the first member; every other asks the managers that are
in, one after another (`RemoteGate`). All of it may be repeated after a crash at any point. What
the manager then serves is `manager.running`'s. The design: docs/design/cluster-membership.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import structlog

from manager.member import Admission, Gate, Member, Peer, manager_info
from manager.secret_files import ManagerFiles
from proto import ca_pb2, ca_pb2_grpc, members_pb2, members_pb2_grpc
from shoal.common.certificates import new_csr_pem, new_key_pem
from shoal.common.config import HostConfig
from shoal.common.identity import Identity
from shoal.common.rpc import channel, unary
from shoal.model.errors import ClusterError, NotFound, Unavailable

_log = structlog.get_logger(__name__)

T = TypeVar("T")
CALL_SECONDS = 10.0
STANDING_SECONDS = 5.0


class RemoteGate:
    """The managers that are in, asked over gRPC; implements `manager.member.Gate`.

    Each call goes to one manager after another until one answers.
    """

    def __init__(
        self,
        config: HostConfig,
        identity: Identity,
        managers: Sequence[str],
        files: ManagerFiles,
    ) -> None:
        self._config = config
        self._identity = identity
        self._managers = tuple(managers)
        self._files = files

    async def add_learner(self, name: str, peer_url: str) -> Admission:
        async def ask(address: str) -> members_pb2.AdmitResponse:
            async with channel(address, self._identity) as to:
                stub = members_pb2_grpc.MembersStub(to)
                request = members_pb2.AdmitRequest(peer_url=peer_url)
                return await unary(stub.Admit, request, seconds=CALL_SECONDS)

        answer = await self._any(ask)
        self._files.save_data_key(answer.data_key)
        peers = tuple(Peer(peer.name, peer.url) for peer in answer.peers)
        return Admission(answer.member, peers)

    async def promote(self, member: int) -> None:
        me = manager_info(self._config, member)

        async def ask(address: str) -> members_pb2.PromoteResponse:
            async with channel(address, self._identity) as to:
                stub = members_pb2_grpc.MembersStub(to)
                request = members_pb2.PromoteRequest(
                    member=member, address=me.addr, join_address=me.join_addr
                )
                return await unary(stub.Promote, request, seconds=CALL_SECONDS)

        await self._any(ask)

    async def holds(self, peer_url: str) -> bool:
        async def ask(address: str) -> members_pb2.StandingResponse:
            async with channel(address, self._identity) as to:
                stub = members_pb2_grpc.MembersStub(to)
                request = members_pb2.StandingRequest(peer_url=peer_url)
                return await unary(stub.Standing, request, seconds=CALL_SECONDS)

        return (await self._any(ask)).member

    async def etcd_certificate(self) -> None:
        """Have etcd's certificate and roots on disk."""
        key = new_key_pem()

        async def ask(address: str) -> ca_pb2.IssueEtcdPeerResponse:
            async with channel(address, self._identity) as to:
                stub = ca_pb2_grpc.CAStub(to)
                request = ca_pb2.IssueEtcdPeerRequest(csr_pem=new_csr_pem(key))
                return await unary(stub.IssueEtcdPeer, request, seconds=CALL_SECONDS)

        answer = await self._any(ask)
        self._files.save_tls(
            certificate=answer.certificate_pem, key=key, roots=answer.etcd_roots_pem
        )

    async def _any(self, ask: Callable[[str], Awaitable[T]]) -> T:
        trouble: Unavailable | None = None
        for address in self._managers:
            try:
                return await ask(address)
            except Unavailable as error:
                _log.info("manager does not help", manager=address, reason=str(error))
                trouble = trouble if trouble is not None and trouble.retry_after else error
        raise trouble or Unavailable("no manager's address is known", retry_after=1.0)


async def enter_store(
    member: Member, gate: RemoteGate, files: ManagerFiles, say: Callable[[str], None]
) -> None:
    """Return when this host's member votes, whatever an earlier attempt left behind."""
    if not files.has_tls:
        await gate.etcd_certificate()
    if member.has_data and _has_key(files):
        status = await member.start()
        if not status.is_learner:
            return
        try:
            await member.finish_joining(gate, say)
        except NotFound:
            _log.info("the managers have forgotten this learner, joining anew")
        else:
            return
    await member.join(gate, say)


class Forgotten(Unavailable):
    """The managers have removed this host's member while it was away."""


async def until_forgotten(member: Member, gate: Gate, healthy: Callable[[], bool]) -> NoReturn:
    """Watch over this host's place in the store, until cancelled.

    A member that was removed and did not hear of it, because the cluster was forced anew or
    its host was demoted and promoted again while it was away, would try for ever: its etcd
    ends at each start. While it is not `healthy` the other managers are asked.

    Raises:
        Forgotten: it has to join anew, without the data it has.
    """
    while True:
        await asyncio.sleep(STANDING_SECONDS)
        if healthy() or not member.has_data:
            continue
        try:
            held = await gate.holds(member.url)
        except ClusterError as error:
            _log.info("nobody knows this member's standing", reason=str(error))
            continue
        if not held:
            raise Forgotten("the managers have removed this member of the store")


def _has_key(files: ManagerFiles) -> bool:
    try:
        files.data_key()
    except NotFound:
        return False
    return True
