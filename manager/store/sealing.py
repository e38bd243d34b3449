"""Encryption of what must not lie readable in the store: CA keys, tokens, secrets, credentials.

One data key a cluster (AES-256-GCM). Managers keep it on their own disk, 0600, and hand it to a
joining manager over the verified joining connection; workers never get it. The name of the key
under which a value is stored is bound to it, so that a sealed value cannot be moved to another.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shoal.model.errors import Internal

KEY_BYTES = 32
_NONCE_BYTES = 12


def new_data_key() -> bytes:
    """A fresh data key."""
    return secrets.token_bytes(KEY_BYTES)


class Sealer:
    """Seals and opens with one data key."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, name: str) -> bytes:
        """Encrypt, bound to `name`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """Decrypt what was sealed under the same name and key."""
        try:
            return self._aead.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode()
            )
        except InvalidTag as error:
            raise Internal(f"{name} was sealed with another key or is damaged") from error
