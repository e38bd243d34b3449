"""What a node's certificate says, in Swarm's form: reading it, and asking for one.

The subject is CN = node id, OU = role, O = cluster id. The alternative names let the ordinary
TLS host name check stand for "is this a manager of my cluster" whatever address was dialled.
Signing is left to `manager.ca.authority`, keeping to `shoal.common.identity`. Both of them,
`tls` and `renewal` call this.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

from shoal.model.errors import InvalidArgument, Unauthenticated
from shoal.model.ids import ClusterID, NodeID

BACKDATE = timedelta(hours=1)
"""Certificates begin this long before they are signed, for hosts whose clocks run behind."""

ETCD_UNIT = "swarm-etcd"
"""OU of etcd peer certificates: no role, so that none of them passes as a node's."""


class Role(StrEnum):
    """What a node may do, as Swarm names it."""

    MANAGER = "manager"
    WORKER = "worker"


ROLE_OF_UNIT = {"swarm-manager": Role.MANAGER, "swarm-worker": Role.WORKER}
UNIT_OF_ROLE = {role: unit for unit, role in ROLE_OF_UNIT.items()}


class Peer(Struct, frozen=True, kw_only=True):
    """Who is at the other end of a connection, as its certificate proves."""

    node_id: NodeID
    role: Role
    cluster_id: ClusterID
    not_after: datetime


def role_name(role: Role) -> str:
    """The server name of any node of that role; for joiners, who know no cluster id yet."""
    return f"{role}.shoal"


def cluster_role_name(role: Role, cluster_id: str) -> str:
    """The server name of a role in one cluster: two clusters may share a root."""
    return f"{role}.{cluster_id}.shoal"


def server_names(node_id: str, role: Role, cluster_id: str) -> tuple[str, ...]:
    """All DNS names in a node's certificate; the bare node id serves calls to one node."""
    return (node_id, role_name(role), cluster_role_name(role, cluster_id))


def new_key_pem() -> bytes:
    """A fresh private key (ECDSA P-256) as unencrypted PKCS #8."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM; InvalidArgument if it is anything but an EC key."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"the private key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("the private key must be an elliptic curve key")
    return key


def new_csr_pem(key_pem: bytes) -> bytes:
    """A signing request with an empty subject: the CA decides everything but the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(load_key(key_pem), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def load_chain(pem: bytes, *, what: str = "certificate") -> list[x509.Certificate]:
    """All certificates of a PEM, at least one; InvalidArgument names `what` otherwise."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidArgument(f"the {what} cannot be read: {error}") from error


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """The certificates in PEM, in the given order."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def public_key_bytes(key: object) -> bytes:
    """A public key's bytes, for comparing two of them."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidArgument("the key must be an elliptic curve key")
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _only(name: x509.Name, oid: x509.ObjectIdentifier) -> str | None:
    values = [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]
    return values[0] if len(values) == 1 else None


def peer_of(certificate: x509.Certificate) -> Peer:
    """The node a certificate speaks for; Unauthenticated if it is not a node's.

    The signature is TLS's business: call this only with a certificate that TLS has verified.
    """
    node_id = _only(certificate.subject, NameOID.COMMON_NAME)
    unit = _only(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    cluster_id = _only(certificate.subject, NameOID.ORGANIZATION_NAME)
    role = ROLE_OF_UNIT.get(unit or "")
    if not node_id or not cluster_id or role is None:
        raise Unauthenticated(
            f"the certificate of {certificate.subject.rfc4514_string()!r} is not a node's: "
            "it needs a node id, a cluster id, and swarm-manager or swarm-worker as its unit"
        )
    return Peer(
        node_id=NodeID(node_id),
        role=role,
        cluster_id=ClusterID(cluster_id),
        not_after=certificate.not_valid_after_utc,
    )


@lru_cache(maxsize=4096)
def peer_of_der(der: bytes) -> Peer:
    """`peer_of` for the bytes TLS hands out; cached, for it is asked on every call."""
    return peer_of(x509.load_der_x509_certificate(der))


@lru_cache(maxsize=4096)
def peer_of_pem(pem: bytes) -> Peer:
    """`peer_of` for the PEM gRPC hands out; cached, for it is asked on every call."""
    return peer_of(x509.load_pem_x509_certificate(pem))


def issuer_among(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    """The root that signed the end of a chain each of which is signed by the next."""
    if not all(_signed_by(signed, signer) for signed, signer in pairwise(chain)):
        return None
    return next((root for root in roots if _signed_by(chain[-1], root)), None)


def trust_word(issuer: x509.Certificate, roots: Sequence[x509.Certificate]) -> str:
    """Who vouches for a node and whom it trusts, in one word; equal words, equal trust."""
    return f"{_fingerprint(issuer)}<{'+'.join(sorted(map(_fingerprint, roots)))}"


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
