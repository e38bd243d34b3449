from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from manager.ca.authority import ClusterAuthority, EtcdAuthority, Subject
from manager.ca.tokens import new_tokens, role_of_token
from shoal.common.certificates import (
    Role,
    issuer_among,
    load_chain,
    new_csr_pem,
    new_key_pem,
    peer_of,
)
from shoal.common.join_token import JoinToken, base36, parse_token, root_digest
from shoal.model.errors import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
WORKER = Subject(
    node_id="node1", role=Role.WORKER, cluster_id="cluster1", addresses=("10.0.0.7", "fd00::7")
)
MANAGER = Subject(node_id="node1", role=Role.MANAGER, cluster_id="cluster1")


@pytest.fixture(scope="module")
def authority() -> ClusterAuthority:
    return ClusterAuthority.create(NOW)


def counted(count: int) -> bytes:
    """Different "random" bytes at each call."""
    counted.calls = getattr(counted, "calls", 0) + 1  # type: ignore[attr-defined]
    return int(counted.calls).to_bytes(count, "big")  # type: ignore[attr-defined]


def test_root_is_as_swarms(authority: ClusterAuthority) -> None:
    root = authority.root
    assert root.subject.rfc4514_string() == "CN=swarm-ca"
    assert root.not_valid_after_utc - NOW == timedelta(days=20 * 365)
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    again = ClusterAuthority(authority.roots_pem, authority.key_pem)
    assert again.root == root


def test_certificate_says_what_the_store_says_whatever_was_asked(
    authority: ClusterAuthority,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-manager")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("manager.shoal")]), critical=False
        )
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    chain = load_chain(authority.sign(greedy, WORKER, NOW))
    certificate = chain[0]
    peer = peer_of(certificate)
    assert (peer.node_id, peer.role, peer.cluster_id) == ("node1", Role.WORKER, "cluster1")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "node1",
        "worker.shoal",
        "worker.cluster1.shoal",
    ]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.7",
        "fd00::7",
    ]
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not limits.ca
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    other = ClusterAuthority.create(NOW).root
    assert issuer_among(chain, [other, authority.root]) == authority.root
    assert issuer_among(chain, [other]) is None


def test_certificates_never_outlive_the_root(authority: ClusterAuthority) -> None:
    end = authority.root.not_valid_after_utc
    csr = new_csr_pem(new_key_pem())
    late = load_chain(authority.sign(csr, WORKER, end - timedelta(days=2)))[0]
    assert late.not_valid_after_utc == end
    with pytest.raises(FailedPrecondition, match="expired"):
        authority.sign(csr, WORKER, end)


def test_bad_requests_are_refused(authority: ClusterAuthority) -> None:
    csr = new_csr_pem(new_key_pem())
    with pytest.raises(InvalidArgument, match="at least 1:00:00"):
        authority.sign(csr, WORKER, NOW, timedelta(minutes=59))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        authority.sign(b"what", WORKER, NOW)
    big = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    with pytest.raises(InvalidArgument, match="ECDSA"):
        authority.sign(
            request.sign(big, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            WORKER,
            NOW,
        )
    der = bytearray(x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InvalidArgument, match="own key"):
        authority.sign(forged, WORKER, NOW)
    with pytest.raises(InvalidArgument, match="does not belong"):
        ClusterAuthority(authority.roots_pem, new_key_pem())
    leaf_key = new_key_pem()
    leaf = authority.sign(new_csr_pem(leaf_key), WORKER, NOW)
    with pytest.raises(InvalidArgument, match="not a CA"):
        ClusterAuthority(leaf, leaf_key)


def test_etcd_certificates_are_for_managers_only() -> None:
    etcd = EtcdAuthority.create(NOW)
    csr = new_csr_pem(new_key_pem())
    with pytest.raises(PermissionDenied, match="managers only"):
        etcd.sign(csr, WORKER, NOW)
    certificate = load_chain(etcd.sign(csr, MANAGER, NOW))[0]
    assert "OU=swarm-etcd" in certificate.subject.rfc4514_string()


def test_tokens_have_swarms_form_and_decide_the_role(authority: ClusterAuthority) -> None:
    tokens = new_tokens(authority.root, counted)
    text = str(tokens.worker)
    assert [len(part) for part in text.split("-")] == [6, 1, 50, 25]
    assert parse_token(f" {text}\n") == tokens.worker
    assert tokens.worker.digest == root_digest(authority.root)
    assert tokens.worker.secret not in repr(tokens.worker)
    assert role_of_token(text, tokens) is Role.WORKER
    assert role_of_token(str(tokens.manager), tokens) is Role.MANAGER
    assert base36(35, 3) == "00z"


def test_wrong_and_rotated_tokens_are_refused(authority: ClusterAuthority) -> None:
    old, new = new_tokens(authority.root, counted), new_tokens(authority.root, counted)
    for text in (str(old.worker), str(old.manager), "", "SWMTKN-1-ä"):
        with pytest.raises(Unauthenticated, match="A valid join token is necessary"):
            role_of_token(text, new)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a join token is needed"),
        ("hello", "must begin with SWMTKN-1-"),
        ("SWMTKN-2-1-" + "a" * 50 + "-" + "b" * 25, "FIPS"),
        ("SWMTKN-1-" + "a" * 50 + "-" + "b" * 24, "50 and 24"),
        ("SWMTKN-1-" + "a" * 50 + "-" + "B" * 25, "lower-case"),
        ("SWMTKN-1-" + "a" * 50, "must read"),
    ],
)
def test_malformed_tokens_are_explained(text: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        parse_token(text)
    assert caught.value.field == "JoinToken"


def test_token_text_round_trips() -> None:
    token = JoinToken(digest="a" * 50, secret="b" * 25)
    assert parse_token(str(token)) == token
