"""Changing the cluster's CA for another without a moment in which two nodes do not trust.

Two steps, each over when every node has followed: first all are to trust the next root too,
then all are to have certificates that it signed. After that the old root, its key and both join
tokens are forgotten, and nodes fetch the shorter list of roots. A node follows by renewing its
certificate, which it does when the word it is told (`Cluster.trust`) is not its own. Pure but
for the keys; written by `manager.root_rotation` and `manager.control.cluster`.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from msgspec.structs import replace

from manager.ca.authority import ClusterAuthority
from manager.ca.sealed import ClusterSecrets
from manager.ca.tokens import RandomBytes, new_tokens
from shoal.common.certificates import load_chain, trust_word
from shoal.model.errors import InvalidArgument
from shoal.model.objects import Cluster, Node
from shoal.model.states import RotationStep

LEAST_LIFE = timedelta(days=365)


def begun(
    cluster: Cluster, secrets: ClusterSecrets, chosen: ClusterAuthority
) -> tuple[Cluster, ClusterSecrets]:
    """The cluster that begins to change its CA for the chosen one."""
    changed = replace(cluster, next_root=chosen.roots_pem.decode(), rotation=RotationStep.TRUST)
    return _with_trust(changed), replace(secrets, next_ca_key=chosen.key_pem)


def advanced(
    cluster: Cluster, secrets: ClusterSecrets, random_bytes: RandomBytes
) -> tuple[Cluster, ClusterSecrets]:
    """The next step of a change that all nodes have followed so far."""
    if cluster.rotation is RotationStep.TRUST:
        return _with_trust(replace(cluster, rotation=RotationStep.SIGN)), secrets
    changed = replace(
        cluster, root_ca=cluster.next_root, next_root="", rotation=RotationStep.NONE
    )
    tokens = new_tokens(_certificate(changed.root_ca), random_bytes)
    return _with_trust(changed), replace(
        secrets,
        ca_key=secrets.next_ca_key,
        next_ca_key=b"",
        worker_token=str(tokens.worker),
        manager_token=str(tokens.manager),
    )


def behind(cluster: Cluster, nodes: Iterable[Node]) -> list[Node]:
    """Nodes whose certificate or roots are not yet what they shall be, and ever can be."""
    return [node for node in nodes if node.trust != cluster.trust and not node.left]


def signer(cluster: Cluster, secrets: ClusterSecrets) -> ClusterAuthority:
    """The CA that signs certificates now."""
    if cluster.rotation is RotationStep.SIGN:
        return ClusterAuthority(cluster.next_root.encode(), secrets.next_ca_key)
    return ClusterAuthority(cluster.root_ca.encode(), secrets.ca_key)


def roots_pem(cluster: Cluster) -> bytes:
    """All roots that nodes shall trust now; the one of the join tokens first."""
    return (cluster.root_ca + cluster.next_root).encode()


def issuer_pem(cluster: Cluster, node: Node) -> str:
    """The root that signed the node's certificate, as far as the node has told."""
    if cluster.next_root and node.trust.startswith(_issued_by(cluster.next_root)):
        return cluster.next_root
    return cluster.root_ca


def trust_of(root: x509.Certificate) -> str:
    """The word for nodes of a cluster with this root alone."""
    return trust_word(root, [root])


def check_chosen(authority: ClusterAuthority, now: datetime) -> None:
    """Refuse a CA of a person's own that would not live long enough."""
    if authority.root.not_valid_after_utc < now + LEAST_LIFE:
        raise InvalidArgument(
            f"CAConfig.SigningCACert: the CA certificate must be valid for a year at least, "
            f"and it ends at {authority.root.not_valid_after_utc:%Y-%m-%d}",
            field="CAConfig.SigningCACert",
        )


def _with_trust(cluster: Cluster) -> Cluster:
    roots = [_certificate(pem) for pem in (cluster.root_ca, cluster.next_root) if pem]
    issuer = roots[-1] if cluster.rotation is RotationStep.SIGN else roots[0]
    return replace(cluster, trust=trust_word(issuer, roots))


def _issued_by(root_pem: str) -> str:
    return trust_of(_certificate(root_pem)).partition("<")[0] + "<"


@lru_cache(maxsize=8)
def _certificate(pem: str) -> x509.Certificate:
    return load_chain(pem.encode(), what="root certificate")[0]
