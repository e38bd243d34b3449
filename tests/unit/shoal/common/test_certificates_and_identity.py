import random
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manager.ca.authority import ClusterAuthority, EtcdAuthority, Subject
from shoal.common.certificates import Role, load_chain, new_csr_pem, new_key_pem, peer_of
from shoal.common.identity import CurrentIdentity, Identity, IdentityStore, identity_of
from shoal.common.renewal import renew_at
from shoal.model.errors import Internal, InvalidArgument, NotFound, Unauthenticated

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CLUSTER = "c1" * 12 + "c"
NODE = "n1" * 12 + "n"


def subject(
    node_id: str = NODE, role: Role = Role.WORKER, cluster_id: str = CLUSTER
) -> Subject:
    return Subject(node_id=node_id, role=role, cluster_id=cluster_id, addresses=("10.0.0.7",))


def make_identity(
    authority: ClusterAuthority, whom: Subject, lifetime: timedelta = timedelta(days=90)
) -> Identity:
    key_pem = new_key_pem()
    return identity_of(
        key_pem=key_pem,
        certificate_pem=authority.sign(new_csr_pem(key_pem), whom, NOW, lifetime),
        roots_pem=authority.roots_pem,
    )


@pytest.fixture(scope="module")
def authority() -> ClusterAuthority:
    return ClusterAuthority.create(NOW)


def test_saved_identity_is_loaded_again(tmp_path: Path, authority: ClusterAuthority) -> None:
    identity = make_identity(authority, subject())
    store = IdentityStore(tmp_path / "certificates")
    with pytest.raises(NotFound, match="not part of a cluster"):
        store.load()
    store.save(identity)
    assert store.load() == identity
    assert (identity.node_id, identity.role, identity.cluster_id) == (NODE, "worker", CLUSTER)
    key = store.directory / "node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert sorted(p.name for p in store.directory.iterdir()) == [
        "ca.crt",
        "node.crt",
        "node.key",
    ]
    store.remove()
    store.remove()
    with pytest.raises(NotFound):
        store.load()


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_commit_cut_short_is_finished_by_the_next_load(
    tmp_path: Path, authority: ClusterAuthority, moved: int
) -> None:
    old, new = make_identity(authority, subject()), make_identity(authority, subject())
    store = IdentityStore(tmp_path)
    other = IdentityStore(tmp_path / ".identity-ready")
    store.save(old)
    other.save(new)  # as if the crash came right after the commit
    for name in ("node.key", "ca.crt", "node.crt")[:moved]:
        (tmp_path / ".identity-ready" / name).rename(tmp_path / name)
    assert store.load() == new
    assert not (tmp_path / ".identity-ready").exists()


def test_crash_before_the_commit_keeps_the_old_identity(
    tmp_path: Path, authority: ClusterAuthority
) -> None:
    old, new = make_identity(authority, subject()), make_identity(authority, subject())
    store = IdentityStore(tmp_path)
    store.save(old)
    IdentityStore(tmp_path / ".identity-staged").save(new)
    assert store.load() == old
    store.save(new)
    assert store.load() == new


def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, authority: ClusterAuthority
) -> None:
    identity = make_identity(authority, subject())
    with pytest.raises(InvalidArgument, match="another key"):
        identity_of(
            key_pem=new_key_pem(),
            certificate_pem=identity.certificate_pem,
            roots_pem=identity.roots_pem,
        )
    with pytest.raises(Unauthenticated, match="not signed by a root"):
        identity_of(
            key_pem=identity.key_pem,
            certificate_pem=identity.certificate_pem,
            roots_pem=ClusterAuthority.create(NOW).roots_pem,
        )
    store = IdentityStore(tmp_path)
    store.save(identity)
    (tmp_path / "ca.crt").write_bytes(b"nothing of the kind")
    with pytest.raises(Internal, match="damaged"):
        store.load()


def test_the_key_stays_out_of_the_repr(authority: ClusterAuthority) -> None:
    assert "PRIVATE" not in repr(make_identity(authority, subject()))


def test_etcd_certificate_is_no_nodes() -> None:
    etcd = EtcdAuthority.create(NOW)
    pem = etcd.sign(new_csr_pem(new_key_pem()), subject(role=Role.MANAGER), NOW)
    with pytest.raises(Unauthenticated, match="not a node's"):
        peer_of(load_chain(pem)[0])


async def test_current_identity_tells_of_changes(authority: ClusterAuthority) -> None:
    first, second = make_identity(authority, subject()), make_identity(authority, subject())
    current = CurrentIdentity(first)
    current.replace(second)
    assert await current.changed(first) is second
    with pytest.raises(InvalidArgument, match="this is node"):
        current.replace(make_identity(authority, subject(node_id="other")))
    assert current.get() is second


@pytest.mark.parametrize("lifetime", [timedelta(hours=1), timedelta(days=90)])
def test_renewal_falls_between_half_and_four_fifths_of_life(
    authority: ClusterAuthority, lifetime: timedelta
) -> None:
    identity = make_identity(authority, subject(), lifetime)
    chance = random.Random(7)
    spots = [(renew_at(identity, chance) - NOW) / lifetime for _ in range(200)]
    assert 0.5 <= min(spots) < 0.52
    assert 0.78 < max(spots) <= 0.8
