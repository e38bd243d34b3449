"""The gRPC half of the CA: certificates for nodes that already have one.

Who asks is read from the certificate of the call, what it gets from the backend (the store):
a role changed there reaches the node with its next renewal. The manager's composition root
adds it to the server with the rows of `ACCESS`.
"""

from datetime import timedelta
from typing import Any, Protocol

import structlog
from typing_extensions import override

from manager.ca.authority import ClusterAuthority, EtcdAuthority, Subject
from proto import ca_pb2, ca_pb2_grpc
from shoal.common.clock import Clock
from shoal.common.rpc import EVERY_ROLE, MANAGERS, Access
from shoal.common.tls import peer_of_call
from shoal.model.errors import Unauthenticated
from shoal.model.ids import NodeID

ACCESS: Access = {
    "/shoal.CA/Renew": EVERY_ROLE,
    "/shoal.CA/IssueEtcdPeer": MANAGERS,
}

_log = structlog.get_logger(__name__)


class Backend(Protocol):
    """What the service needs of the store."""

    async def subject(self, node_id: NodeID) -> Subject:
        """The node as the store has it now: desired role, cluster, addresses.

        NotFound when it was removed from the cluster, Unavailable without a quorum.
        """
        ...

    def authority(self) -> ClusterAuthority:
        """The CA in force; Unavailable while the cluster is locked."""
        ...

    def etcd_authority(self) -> EtcdAuthority:
        """The etcd peers' CA; Unavailable while the cluster is locked."""
        ...

    def roots_pem(self) -> bytes:
        """All roots nodes shall trust, more than one while the root is being rotated."""
        ...

    def lifetime(self) -> timedelta:
        """How long node certificates are valid (the cluster's CAConfig.NodeCertExpiry)."""
        ...


class CertificateService(ca_pb2_grpc.CAServicer):
    """Renews node certificates and issues etcd's."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    @override
    async def Renew(self, request: ca_pb2.RenewRequest, context: Any) -> ca_pb2.RenewResponse:
        subject = await self._caller(context)
        certificate = self._backend.authority().sign(
            request.csr_pem, subject, self._clock.now(), self._backend.lifetime()
        )
        _log.info("certificate renewed", node=subject.node_id, role=subject.role)
        return ca_pb2.RenewResponse(
            certificate_pem=certificate, roots_pem=self._backend.roots_pem()
        )

    @override
    async def IssueEtcdPeer(
        self, request: ca_pb2.IssueEtcdPeerRequest, context: Any
    ) -> ca_pb2.IssueEtcdPeerResponse:
        subject = await self._caller(context)
        authority = self._backend.etcd_authority()
        certificate = authority.sign(
            request.csr_pem, subject, self._clock.now(), self._backend.lifetime()
        )
        _log.info("etcd certificate issued", node=subject.node_id)
        return ca_pb2.IssueEtcdPeerResponse(
            certificate_pem=certificate, etcd_roots_pem=authority.roots_pem
        )

    async def _caller(self, context: Any) -> Subject:
        peer = peer_of_call(context)
        subject = await self._backend.subject(peer.node_id)
        if subject.cluster_id != peer.cluster_id:
            raise Unauthenticated(f"node {peer.node_id} belongs to another cluster")
        return subject
