"""Signing: the cluster CA for nodes, and a second CA for etcd's peers.

Two CAs and not one, because etcd 3.4 admits whatever its trusted CA has signed: only managers
hold the etcd CA, so no worker's certificate can ever open a peer port. Both take nothing from
a signing request but its key. The clock and what may be signed are the callers' (`service`,
`joining`, init); rotating a root is not here.
"""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from shoal.common.certificates import (
    BACKDATE,
    ETCD_UNIT,
    UNIT_OF_ROLE,
    Role,
    load_chain,
    load_key,
    new_key_pem,
    public_key_bytes,
    server_names,
    to_pem,
)
from shoal.model.errors import FailedPrecondition, InvalidArgument, PermissionDenied

DEFAULT_LIFETIME = timedelta(days=90)
MINIMUM_LIFETIME = timedelta(hours=1)
ROOT_LIFETIME = timedelta(days=20 * 365)

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class Subject(Struct, frozen=True, kw_only=True):
    """Whom a certificate is for, as the store knows it. `addresses` are IP addresses."""

    node_id: str
    role: Role
    cluster_id: str
    addresses: tuple[str, ...] = ()


class _Root:
    """A self-signed certificate and its key."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        self.certificate = load_chain(certificate_pem, what="root certificate")[0]
        self.key = load_key(key_pem)
        self.key_pem = key_pem
        self._check()

    def _check(self) -> None:
        if public_key_bytes(self.certificate.public_key()) != public_key_bytes(
            self.key.public_key()
        ):
            raise InvalidArgument("the CA key does not belong to the CA certificate")
        try:
            limits = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        except x509.ExtensionNotFound as error:
            raise InvalidArgument("the CA certificate does not say that it is a CA") from error
        if not limits.value.ca:
            raise InvalidArgument("the CA certificate says that it is not a CA")

    @classmethod
    def create(cls, name: str, now: datetime) -> Self:
        key_pem = new_key_pem()
        key = load_key(key_pem)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
        )
        return cls(to_pem([builder.sign(key, hashes.SHA256())]), key_pem)

    def issue(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        now: datetime,
        lifetime: timedelta,
    ) -> bytes:
        """A certificate for both ends of a connection; it never outlives the root."""
        if lifetime < MINIMUM_LIFETIME:
            raise InvalidArgument(
                f"certificates must be valid for at least {MINIMUM_LIFETIME}, not {lifetime}",
                field="CAConfig.NodeCertExpiry",
            )
        if self.certificate.not_valid_after_utc <= now:
            raise FailedPrecondition("the CA certificate has expired; rotate it first")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        return to_pem([builder.sign(self.key, hashes.SHA256())])


class ClusterAuthority:
    """The CA whose certificates make a node a member."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        """InvalidArgument if the two do not make a CA."""
        self._root = _Root(certificate_pem, key_pem)

    @classmethod
    def create(cls, now: datetime) -> Self:
        """A new root, for init."""
        root = _Root.create("swarm-ca", now)
        return cls(to_pem([root.certificate]), root.key_pem)

    @property
    def root(self) -> x509.Certificate:
        return self._root.certificate

    @property
    def roots_pem(self) -> bytes:
        return to_pem([self._root.certificate])

    @property
    def key_pem(self) -> bytes:
        """For the store, which encrypts it."""
        return self._root.key_pem

    def sign(
        self,
        csr_pem: bytes,
        subject: Subject,
        now: datetime,
        lifetime: timedelta = DEFAULT_LIFETIME,
    ) -> bytes:
        """A node's certificate in PEM; only the key of the request counts."""
        names = server_names(subject.node_id, subject.role, subject.cluster_id)
        return self._root.issue(
            requested_key(csr_pem),
            _name(subject.node_id, UNIT_OF_ROLE[subject.role], subject.cluster_id),
            _alternatives(names, subject.addresses),
            now,
            lifetime,
        )


class EtcdAuthority:
    """The CA of etcd's peer connections; its key and its certificates stay with managers."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        """InvalidArgument if the two do not make a CA."""
        self._root = _Root(certificate_pem, key_pem)

    @classmethod
    def create(cls, now: datetime) -> Self:
        """A new root, for init."""
        root = _Root.create("swarm-etcd-ca", now)
        return cls(to_pem([root.certificate]), root.key_pem)

    @property
    def roots_pem(self) -> bytes:
        """For etcd's --peer-trusted-ca-file."""
        return to_pem([self._root.certificate])

    @property
    def key_pem(self) -> bytes:
        """For the store, which encrypts it."""
        return self._root.key_pem

    def sign(
        self,
        csr_pem: bytes,
        subject: Subject,
        now: datetime,
        lifetime: timedelta = DEFAULT_LIFETIME,
    ) -> bytes:
        """A manager's etcd certificate; PermissionDenied for a worker.

        etcd compares a peer's source address with the certificate, so the subject's addresses
        must be those the manager's peers see.
        """
        if subject.role is not Role.MANAGER:
            raise PermissionDenied(
                f"node {subject.node_id} is a {subject.role}; etcd is for managers only"
            )
        return self._root.issue(
            requested_key(csr_pem),
            _name(subject.node_id, ETCD_UNIT, subject.cluster_id),
            _alternatives((subject.node_id,), subject.addresses),
            now,
            lifetime,
        )


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a signing request that proves to hold it; InvalidArgument otherwise."""
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidArgument(f"the signing request cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InvalidArgument("the signing request must have an ECDSA key, P-256 or larger")
    if not proven:
        raise InvalidArgument("the signing request is not signed by its own key")
    return key


def _name(common: str, unit: str, organization: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _alternatives(names: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    for address in addresses:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError as error:
            raise InvalidArgument(f"{address!r} is not an IP address") from error
    return found


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
