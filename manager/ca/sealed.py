"""What the cluster object keeps secret: CA keys, join tokens, unlock key; one sealed value.

Opened only on managers, with the cluster's data key (`manager.store.sealing`). Used by trust,
founding and the cluster's REST operations.
"""

import msgspec

from manager.ca.tokens import TokenPair
from manager.store.sealing import Sealer
from shoal.common.join_token import parse_token
from shoal.model.ids import ClusterID

_NAME = "cluster/"


class ClusterSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """Keys in PEM, tokens and unlock key as users type them; the latter empty if not locked.

    `next_ca_key` is of the CA that the present one is being changed for, empty without.
    """

    ca_key: bytes
    etcd_ca_key: bytes
    worker_token: str
    manager_token: str
    unlock_key: str = ""
    next_ca_key: bytes = b""

    def tokens(self) -> TokenPair:
        """The join tokens, parsed."""
        return TokenPair(
            worker=parse_token(self.worker_token), manager=parse_token(self.manager_token)
        )


def seal_secrets(sealer: Sealer, cluster: ClusterID, secrets: ClusterSecrets) -> bytes:
    """For `Cluster.sealed`."""
    return sealer.seal(msgspec.json.encode(secrets), _NAME + cluster)


def open_secrets(sealer: Sealer, cluster: ClusterID, sealed: bytes) -> ClusterSecrets:
    """What `Cluster.sealed` holds."""
    return msgspec.json.decode(sealer.open(sealed, _NAME + cluster), type=ClusterSecrets)
