"""Certificates for the tests of connections: a cluster's CA that signs whom the test wants."""

from datetime import UTC, datetime, timedelta

from manager.ca.authority import ClusterAuthority, Subject
from shoal.common.certificates import Role, new_csr_pem, new_key_pem
from shoal.common.identity import CurrentIdentity, Identity, identity_of


class FixedClock:
    """A clock that the test moves."""

    def __init__(self, now: datetime | None = None) -> None:
        self.time = now if now is not None else datetime.now(UTC)  # noqa: TID251
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds


class Trust:
    """One cluster's CA. Certificates are valid now, as real handshakes need."""

    def __init__(
        self, cluster_id: str = "c1", authority: ClusterAuthority | None = None
    ) -> None:
        self.now = FixedClock().now()
        self.cluster_id = cluster_id
        self.authority = authority or ClusterAuthority.create(self.now)

    def identity(
        self,
        node_id: str = "n1",
        role: Role = Role.MANAGER,
        *,
        signed: datetime | None = None,
        lifetime: timedelta = timedelta(hours=1),
    ) -> Identity:
        key_pem = new_key_pem()
        subject = Subject(node_id=node_id, role=role, cluster_id=self.cluster_id)
        return identity_of(
            key_pem=key_pem,
            certificate_pem=self.authority.sign(
                new_csr_pem(key_pem), subject, signed or self.now, lifetime
            ),
            roots_pem=self.authority.roots_pem,
        )

    def current(self, node_id: str = "n1", role: Role = Role.MANAGER) -> CurrentIdentity:
        return CurrentIdentity(self.identity(node_id, role))
