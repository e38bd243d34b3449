"""What a manager keeps on disk beside its identity: etcd's certificate and the data key.

Each file is replaced as a whole and readable by root alone. The data key lies in one of two
forms (`shoal.common.key_files`): plain, or sealed with the cluster's unlock key.
"""

import os
from pathlib import Path

from manager.member import PeerTLS
from manager.store.sealing import Sealer
from shoal.common.config import HostConfig
from shoal.common.key_files import LOCKED, open_key, plain_key, sealed_key
from shoal.common.unlock_key import parse_unlock_key
from shoal.model.errors import Internal, NotFound, Unauthenticated, Unavailable

_NAME = "data.key"


class ManagerFiles:
    """The files of this host's manager."""

    def __init__(self, config: HostConfig) -> None:
        self._directory = config.manager_secrets
        self._plain = plain_key(config)
        self._sealed = sealed_key(config)
        self._open = open_key(config)

    @property
    def tls(self) -> PeerTLS:
        """Paths of etcd's files; they need not exist yet."""
        directory = self._directory
        return PeerTLS(
            cert=str(directory / "etcd.crt"),
            key=str(directory / "etcd.key"),
            ca=str(directory / "etcd-ca.crt"),
        )

    @property
    def has_tls(self) -> bool:
        return all(Path(path).exists() for path in (self.tls.cert, self.tls.key, self.tls.ca))

    def save_tls(self, *, certificate: bytes, key: bytes, roots: bytes) -> None:
        for path, data in (
            (self.tls.key, key),
            (self.tls.cert, certificate),
            (self.tls.ca, roots),
        ):
            _save(Path(path), data)

    def data_key(self) -> bytes:
        """The key that secrets in the store are sealed with; Unavailable while it is locked."""
        for path in (self._plain, self._open):
            if path.exists():
                return path.read_bytes()
        if self._sealed.exists():
            raise Unavailable(LOCKED)
        raise NotFound(f"{self._plain} is missing: this host has to join again")

    def save_data_key(self, key: bytes) -> None:
        """Keep it, plain until the cluster is known to lock its managers."""
        _save(self._plain, key)

    def keep(self, key: bytes, unlock_key: str) -> None:
        """Have the data key lie in the form that the cluster wants; no unlock key: plain.

        At every moment there is a form that this manager can use.
        """
        if not unlock_key:
            if self._sealed.exists():
                _save(self._plain, key)
            self._sealed.unlink(missing_ok=True)
            self._open.unlink(missing_ok=True)
            return
        with_key = Sealer(parse_unlock_key(unlock_key))
        if self._opened(with_key) is None:
            _save(self._sealed, with_key.seal(key, _NAME))
        if not self._open.exists():
            _save(self._open, key)
        self._plain.unlink(missing_ok=True)

    def unlock(self, text: str) -> None:
        """Open the data key with what a person gave; Unauthenticated if it is not the key."""
        with_key = Sealer(parse_unlock_key(text))
        key = self._opened(with_key)
        if key is None:
            raise Unauthenticated("swarm could not be unlocked: invalid key provided")
        _save(self._open, key)

    def _opened(self, with_key: Sealer) -> bytes | None:
        """What is sealed; None where nothing is, or not with this key."""
        try:
            return with_key.open(self._sealed.read_bytes(), _NAME)
        except (FileNotFoundError, Internal):
            return None


def _save(path: Path, data: bytes) -> None:
    """On disk, whole, readable by root alone, when this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
