"""Join tokens as the CA sees them: making a pair, and telling a role from a token.

The tokens do not expire; rotating them replaces the pair, and with it every older token is
wrong. Their form is `shoal.common.join_token`, where they are kept (encrypted) is the store's.
"""

import hmac
from collections.abc import Callable

from cryptography import x509
from msgspec import Struct

from shoal.common.certificates import Role
from shoal.common.join_token import JoinToken, token_from
from shoal.model.errors import Unauthenticated

NEEDS_TOKEN = "A valid join token is necessary to join this cluster"  # noqa: S105 - a sentence

RandomBytes = Callable[[int], bytes]
"""So many random bytes; `secrets.token_bytes` is one."""


class TokenPair(Struct, frozen=True, kw_only=True):
    """The two tokens in force."""

    worker: JoinToken
    manager: JoinToken


def new_token(root: x509.Certificate, random_bytes: RandomBytes) -> JoinToken:
    """A token nobody knows yet."""
    return token_from(root, random_bytes(16))


def new_tokens(root: x509.Certificate, random_bytes: RandomBytes) -> TokenPair:
    """Both tokens, for a new cluster or a new root."""
    return TokenPair(
        worker=new_token(root, random_bytes), manager=new_token(root, random_bytes)
    )


def role_of_token(text: str, tokens: TokenPair) -> Role:
    """The role a token grants; Unauthenticated for any other text.

    Both comparisons always run and take the same time whatever was given.
    """
    given = text.encode()
    is_worker = hmac.compare_digest(given, str(tokens.worker).encode())
    is_manager = hmac.compare_digest(given, str(tokens.manager).encode())
    if is_manager:
        return Role.MANAGER
    if is_worker:
        return Role.WORKER
    raise Unauthenticated(NEEDS_TOKEN)
