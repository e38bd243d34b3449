"""A node's identity: its key, its certificate and the roots it trusts, on disk and in memory.

`IdentityStore` keeps them in one directory as `node.key` (0600), `node.crt` (certificate and
chain) and `ca.crt` (root bundle); `CurrentIdentity` is the copy in use, replaced on renewal.
Making TLS out of it is `tls`, getting a new one is `join_client` and `renewal`.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from msgspec import Struct
from msgspec.structs import replace
from typing_extensions import override

from shoal.common.certificates import (
    Role,
    issuer_among,
    load_chain,
    load_key,
    peer_of,
    public_key_bytes,
    trust_word,
)
from shoal.model.errors import Internal, InvalidArgument, NotFound, Unauthenticated
from shoal.model.ids import ClusterID, NodeID

KEY_FILE = "node.key"
CERTIFICATE_FILE = "node.crt"
ROOTS_FILE = "ca.crt"
_STAGED = ".identity-staged"
_READY = ".identity-ready"


class Identity(Struct, frozen=True, kw_only=True):
    """Who this node is, and the means to prove it. Make one with `identity_of`."""

    node_id: NodeID
    role: Role
    cluster_id: ClusterID
    key_pem: bytes
    certificate_pem: bytes
    roots_pem: bytes
    not_before: datetime
    not_after: datetime
    trust: str = ""
    """Who signed it and whom it trusts (`certificates.trust_word`)."""

    @override
    def __repr__(self) -> str:
        """Without the key: identities end up in log lines."""
        return (
            f"Identity({self.node_id!r}, {self.role.value!r}, {self.cluster_id!r}, "
            f"not_after={self.not_after.isoformat()!r})"
        )


def identity_of(*, key_pem: bytes, certificate_pem: bytes, roots_pem: bytes) -> Identity:
    """An identity out of its three parts, after checking that they belong together.

    InvalidArgument when a part cannot be read or the key is another one's; Unauthenticated
    when the certificate does not lead to a root or is not a node's. Dates are not checked:
    an expired identity is still one, and TLS refuses it.
    """
    chain = load_chain(certificate_pem, what="node certificate")
    roots = load_chain(roots_pem, what="root certificate")
    certificate = chain[0]
    if public_key_bytes(certificate.public_key()) != public_key_bytes(
        load_key(key_pem).public_key()
    ):
        raise InvalidArgument("the node certificate was made for another key than the node's")
    issuer = issuer_among(chain, roots)
    if issuer is None:
        raise Unauthenticated(
            "the node certificate is not signed by a root certificate of this cluster"
        )
    described = _described(certificate, key_pem, certificate_pem, roots_pem)
    return replace(described, trust=trust_word(issuer, roots))


def _described(
    certificate: x509.Certificate, key_pem: bytes, certificate_pem: bytes, roots_pem: bytes
) -> Identity:
    peer = peer_of(certificate)
    return Identity(
        node_id=peer.node_id,
        role=peer.role,
        cluster_id=peer.cluster_id,
        key_pem=key_pem,
        certificate_pem=certificate_pem,
        roots_pem=roots_pem,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


class IdentityStore:
    """The identity in one directory, replaced as a whole or not at all.

    Three files cannot be renamed in one step, so a complete new set is committed by renaming
    its directory, and whoever loads next finishes moving the files of a commit that a crash
    cut short.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def directory(self) -> Path:
        return self._directory

    def load(self) -> Identity:
        """The identity on disk. NotFound if there is none, Internal if it cannot be used."""
        try:
            return self._load()
        except Internal:
            # Another process may have been in the middle of a commit; this attempt ends it.
            return self._load()

    def _load(self) -> Identity:
        self._finish_commit()
        try:
            return identity_of(
                key_pem=(self._directory / KEY_FILE).read_bytes(),
                certificate_pem=(self._directory / CERTIFICATE_FILE).read_bytes(),
                roots_pem=(self._directory / ROOTS_FILE).read_bytes(),
            )
        except FileNotFoundError as error:
            raise NotFound(
                f"no node identity in {self._directory}: this node is not part of a cluster"
            ) from error
        except OSError as error:
            raise Internal(f"the identity in {self._directory}: {error.strerror}") from error
        except (InvalidArgument, Unauthenticated) as error:
            raise Internal(f"the identity in {self._directory} is damaged: {error}") from error

    def save(self, identity: Identity) -> None:
        """Replace what is on disk; durable when it returns."""
        try:
            self._save(identity)
        except OSError as error:
            raise Internal(
                f"cannot keep the identity in {self._directory}: {error.strerror}"
            ) from error

    def remove(self) -> None:
        """Forget the identity; no error if there is none (leaving a cluster twice)."""
        for name in (_STAGED, _READY):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        for name in (KEY_FILE, CERTIFICATE_FILE, ROOTS_FILE):
            (self._directory / name).unlink(missing_ok=True)

    def stamp(self) -> tuple[int, int] | None:
        """Changes whenever another identity was saved; None if there is none."""
        try:
            found = (self._directory / CERTIFICATE_FILE).stat()
        except FileNotFoundError:
            return None
        return (found.st_ino, found.st_mtime_ns)

    def _save(self, identity: Identity) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._finish_commit()
        staged = self._directory / _STAGED
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o700)
        _write(staged / KEY_FILE, identity.key_pem, 0o600)
        _write(staged / CERTIFICATE_FILE, identity.certificate_pem, 0o644)
        _write(staged / ROOTS_FILE, identity.roots_pem, 0o644)
        _sync_directory(staged)
        staged.rename(self._directory / _READY)
        _sync_directory(self._directory)
        self._finish_commit()

    def _finish_commit(self) -> None:
        ready = self._directory / _READY
        if not ready.is_dir():
            return
        for name in (KEY_FILE, ROOTS_FILE, CERTIFICATE_FILE):  # the stamp moves last
            with suppress(FileNotFoundError):  # moved before a crash, or by another process
                (ready / name).replace(self._directory / name)
        _sync_directory(self._directory)
        with suppress(FileNotFoundError):
            ready.rmdir()


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CurrentIdentity:
    """The identity in use. Servers look here at each handshake, so a new one acts at once.

    Whoever holds client connections awaits `changed` and dials again. `get` may be called
    from any thread (gRPC's handshakes do), `replace` only on the event loop.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._replaced = asyncio.Event()

    def get(self) -> Identity:
        return self._identity

    def replace(self, identity: Identity) -> None:
        """Use another one from now on; InvalidArgument if it is not this node's."""
        self.check_same_node(identity)
        self._identity = identity
        self._replaced.set()
        self._replaced = asyncio.Event()

    def check_same_node(self, identity: Identity) -> None:
        """InvalidArgument unless it is for the same node of the same cluster."""
        known = self._identity
        if (identity.node_id, identity.cluster_id) != (known.node_id, known.cluster_id):
            raise InvalidArgument(
                f"the new certificate is for node {identity.node_id} of cluster "
                f"{identity.cluster_id}; this is node {known.node_id} of {known.cluster_id}"
            )

    async def changed(self, seen: Identity) -> Identity:
        """Wait until the identity is another one than `seen`, and return it."""
        while self._identity is seen:
            await self._replaced.wait()
        return self._identity
