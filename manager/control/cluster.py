"""The cluster itself: its settings, its join tokens, what its CA is.

Founding, joining and leaving are not here: they begin or end a manager (`manager.founding`,
`manager.enrolment`).
"""

import base64
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives import serialization

from manager.ca.authority import ClusterAuthority
from manager.ca.rotation import begun, behind, check_chosen, issuer_pem
from manager.ca.sealed import ClusterSecrets, open_secrets, seal_secrets
from manager.ca.tokens import RandomBytes, new_token
from manager.control.writing import Writer
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from shoal.common.certificates import load_chain
from shoal.common.clock import Clock
from shoal.common.unlock_key import KEY_BYTES, unlock_key_text
from shoal.model.changes import Group, Update
from shoal.model.errors import Conflict, Unavailable
from shoal.model.objects import Cluster, Node
from shoal.model.spec.cluster import ClusterSpec
from shoal.model.validate.cluster import check_cluster
from shoal.model.validate.refusal import out_of_sequence, precondition


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """What shall be made anew together with an update."""

    worker_token: bool = False
    manager_token: bool = False
    unlock_key: bool = False


class TLSInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The CA in force: certificate in PEM, subject and key in base64 of their DER."""

    trust_root: str = ""
    issuer_subject: str = ""
    issuer_public_key: str = ""


class ClusterSettings:
    """The operations on the cluster object."""

    def __init__(
        self,
        writer: Writer,
        memory: Memory,
        sealer: Sealer,
        clock: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        self._writer = writer
        self._memory = memory
        self._sealer = sealer
        self._clock = clock
        self._random_bytes = random_bytes

    def cluster(self) -> Cluster:
        """The cluster object."""
        found = self._memory.cluster()
        if found is None:
            raise Unavailable("the cluster's state is not loaded yet", retry_after=1.0)
        return found

    def secrets(self) -> ClusterSecrets:
        """Its tokens and keys."""
        cluster = self.cluster()
        return open_secrets(self._sealer, cluster.id, cluster.sealed)

    def unlock_key(self) -> str:
        """The key to unlock managers with; empty while they are not locked."""
        return self.secrets().unlock_key

    def unlock(self) -> None:
        """Managers that answer are not locked."""
        raise Conflict("swarm is not locked")

    async def update(self, spec: ClusterSpec, version: int, rotation: Rotation) -> None:
        """Take new settings; make tokens anew that are asked for."""
        check_cluster(spec)

        def decide() -> tuple[Group, None]:
            cluster = self.cluster()
            if version != cluster.version:
                raise out_of_sequence()
            present = open_secrets(self._sealer, cluster.id, cluster.sealed)
            secrets = self._rotated(cluster, present, spec, rotation)
            changed, secrets = self._with_ca(cluster, spec, secrets)
            if secrets != present:
                sealed = seal_secrets(self._sealer, cluster.id, secrets)
                changed = msgspec.structs.replace(changed, sealed=sealed)
            changed = msgspec.structs.replace(
                changed, spec=_without_ca(spec), updated_at=self._clock.now()
            )
            return Group((Update(changed),), "cluster updated"), None

        await self._writer.write(decide)

    def _with_ca(
        self, cluster: Cluster, spec: ClusterSpec, secrets: ClusterSecrets
    ) -> tuple[Cluster, ClusterSecrets]:
        """The cluster that begins to change its CA, where the spec asks for another."""
        wanted, now = spec.ca_config, self._clock.now()
        if wanted.signing_ca_cert:
            chosen = ClusterAuthority(
                wanted.signing_ca_cert.encode(), wanted.signing_ca_key.encode()
            )
            check_chosen(chosen, now)
        elif wanted.force_rotate != cluster.spec.ca_config.force_rotate:
            chosen = ClusterAuthority.create(now)
        else:
            return cluster, secrets
        if cluster.next_root:
            left = len(behind(cluster, self._memory.nodes()))
            raise precondition(
                f"the cluster's CA is being changed already, and {left} nodes have not "
                f"followed yet: wait for them, or remove those that do not come back"
            )
        return begun(cluster, secrets, chosen)

    def _rotated(
        self, cluster: Cluster, secrets: ClusterSecrets, spec: ClusterSpec, rotation: Rotation
    ) -> ClusterSecrets:
        changes: dict[str, str] = {}
        for field, wanted in (
            ("worker_token", rotation.worker_token),
            ("manager_token", rotation.manager_token),
        ):
            if wanted:
                changes[field] = self._token(cluster)
        if not spec.encryption_config.auto_lock_managers:
            changes["unlock_key"] = ""
        elif rotation.unlock_key or not secrets.unlock_key:
            changes["unlock_key"] = unlock_key_text(self._random_bytes(KEY_BYTES))
        return msgspec.structs.replace(secrets, **changes)

    def _token(self, cluster: Cluster) -> str:
        if not cluster.root_ca:
            raise precondition("the cluster has no CA that a join token could name")
        root = load_chain(cluster.root_ca.encode(), what="root certificate")[0]
        return str(new_token(root, self._random_bytes))


def _without_ca(spec: ClusterSpec) -> ClusterSpec:
    """A CA that was brought along is taken once and kept sealed, not in the spec."""
    ca = msgspec.structs.replace(spec.ca_config, signing_ca_cert="", signing_ca_key="")
    return msgspec.structs.replace(spec, ca_config=ca)


def cluster_tls(cluster: Cluster) -> TLSInfo:
    """The root that join tokens name, and the CA that signs from now on."""
    signing = tls_info(cluster.next_root or cluster.root_ca)
    return msgspec.structs.replace(signing, trust_root=cluster.root_ca)


def node_tls(cluster: Cluster, node: Node) -> TLSInfo:
    """What a node has of it, as far as it has told; an empty root: not all it shall trust."""
    issued = tls_info(issuer_pem(cluster, node))
    trusted = cluster.root_ca if node.trust in ("", cluster.trust) else ""
    return msgspec.structs.replace(issued, trust_root=trusted)


@lru_cache(maxsize=8)
def tls_info(root_ca: str) -> TLSInfo:
    """What clients are told of a root certificate."""
    if not root_ca:
        return TLSInfo()
    root = load_chain(root_ca.encode(), what="root certificate")[0]
    key = root.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return TLSInfo(
        trust_root=root_ca,
        issuer_subject=base64.b64encode(root.subject.public_bytes()).decode(),
        issuer_public_key=base64.b64encode(key).decode(),
    )
