"""The cluster's trust, out of the store: who may join, what certificates say, who signs.

Backs the joining listener (`JoiningTrust`) and the CA's gRPC (`CertificateTrust`); both read
the cluster object and its sealed secrets through `Authorities`. Rules of their own they have
none: signing is `manager.ca`'s, writing `manager.store`'s.
"""

from datetime import timedelta

import structlog

from manager.ca import rotation
from manager.ca.authority import ClusterAuthority, EtcdAuthority, Subject
from manager.ca.sealed import ClusterSecrets, open_secrets
from manager.ca.tokens import role_of_token
from manager.joining import Applicant, Signed
from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from shoal.common.certificates import Role
from shoal.common.clock import Clock
from shoal.model.changes import Create, Group
from shoal.model.errors import NotFound, Unavailable
from shoal.model.ids import IdSource, NodeID
from shoal.model.objects import Cluster, Node
from shoal.model.spec.node import NodeSpec

_log = structlog.get_logger(__name__)

ATTEMPTS = 5


class Authorities:
    """The cluster's CAs and tokens as the store has them now."""

    def __init__(self, memory: Memory, sealer: Sealer) -> None:
        self._memory = memory
        self._sealer = sealer
        self._opened: tuple[int, ClusterSecrets] | None = None

    def cluster(self) -> Cluster:
        """The cluster object; Unavailable before the first list has come."""
        found = self._memory.cluster()
        if found is None:
            raise Unavailable("the cluster's state is not loaded yet", retry_after=1.0)
        return found

    def secrets(self) -> ClusterSecrets:
        """Opened once a version of the cluster object."""
        cluster = self.cluster()
        if self._opened is None or self._opened[0] != cluster.guard:
            secrets = open_secrets(self._sealer, cluster.id, cluster.sealed)
            self._opened = (cluster.guard, secrets)
        return self._opened[1]

    def root(self) -> ClusterAuthority:
        return rotation.signer(self.cluster(), self.secrets())

    def roots_pem(self) -> bytes:
        return rotation.roots_pem(self.cluster())

    def etcd(self) -> EtcdAuthority:
        return EtcdAuthority(self.cluster().etcd_ca.encode(), self.secrets().etcd_ca_key)

    def lifetime(self) -> timedelta:
        """Of node certificates."""
        return timedelta(microseconds=self.cluster().spec.ca_config.node_cert_expiry / 1000)

    def subject(self, node: Node) -> Subject:
        """What the node's next certificate says: the role it shall have."""
        addresses = {node.addr, node.joined_from} - {""}
        return Subject(
            node_id=node.id,
            role=Role(node.role_told.value),
            cluster_id=self.cluster().id,
            addresses=tuple(sorted(addresses)),
        )


class CertificateTrust:
    """Implements `manager.ca.service.Backend`."""

    def __init__(self, authorities: Authorities, memory: Memory, barrier: Barrier) -> None:
        self._authorities = authorities
        self._memory = memory
        self._barrier = barrier

    async def subject(self, node_id: NodeID) -> Subject:
        await self._barrier.reached()
        node = self._memory.node(node_id)
        if node is None:
            raise NotFound(f"node {node_id} was removed from the cluster")
        return self._authorities.subject(node)

    def authority(self) -> ClusterAuthority:
        return self._authorities.root()

    def etcd_authority(self) -> EtcdAuthority:
        return self._authorities.etcd()

    def roots_pem(self) -> bytes:
        return self._authorities.roots_pem()

    def lifetime(self) -> timedelta:
        return self._authorities.lifetime()


class JoiningTrust:
    """Implements `manager.joining.JoiningBackend`."""

    def __init__(
        self,
        authorities: Authorities,
        memory: Memory,
        commit: Commit,
        barrier: Barrier,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._authorities = authorities
        self._memory = memory
        self._commit = commit
        self._barrier = barrier
        self._clock = clock
        self._ids = ids

    async def roots_pem(self) -> bytes:
        return self._authorities.roots_pem()

    async def role_of(self, token: str) -> Role:
        await self._barrier.reached()
        return role_of_token(token, self._authorities.secrets().tokens())

    async def register(self, applicant: Applicant) -> NodeID:
        for _ in range(ATTEMPTS):
            await self._barrier.reached()
            for node in self._memory.nodes():
                if node.key_digest == applicant.key_digest:
                    return node.id
            node = self._new_node(applicant)
            outcome = await self._commit.commit([Group((Create(node),), "node joins")])
            await self._memory.reached(outcome.revision)
            if not outcome.clashed:
                _log.info("node joined", node=node.id, role=applicant.role.value)
                return node.id
        raise Unavailable("the cluster is too busy to take a node, try again", retry_after=1.0)

    def _new_node(self, applicant: Applicant) -> Node:
        now = self._clock.now()
        return Node(
            id=NodeID(self._ids.new()),
            created_at=now,
            updated_at=now,
            spec=NodeSpec(role=applicant.role.value, availability=applicant.availability),
            key_digest=applicant.key_digest,
            joined_from=applicant.address,
        )

    async def sign(self, csr_pem: bytes, node_id: NodeID) -> Signed:
        node = self._memory.node(node_id)
        if node is None:
            raise NotFound(f"node {node_id} was removed while it joined")
        authorities = self._authorities
        root = authorities.root()
        certificate = root.sign(
            csr_pem, authorities.subject(node), self._clock.now(), authorities.lifetime()
        )
        managers = [n.manager.addr for n in self._memory.nodes() if n.manager is not None]
        return Signed(
            certificate_pem=certificate,
            roots_pem=authorities.roots_pem(),
            managers=tuple(managers),
        )
