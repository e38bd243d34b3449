"""The form of join tokens, Swarm's own: `SWMTKN-1-<root digest>-<secret>`.

The digest (SHA-256 of the root certificate's DER, 50 digits of base 36) lets a joiner know
the right CA, the secret (25 digits) decides the role. Both ends read tokens here; making and
judging them is `manager.ca.tokens`.
"""

import hashlib
import re

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec import Struct
from typing_extensions import override

from shoal.model.errors import InvalidArgument

_PREFIX = "SWMTKN-1"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_DIGEST_LENGTH = 50
_SECRET_LENGTH = 25
_SECRET_BYTES = 16
_FORM = re.compile(rf"{_PREFIX}-([0-9a-z]{{{_DIGEST_LENGTH}}})-([0-9a-z]{{{_SECRET_LENGTH}}})")


class JoinToken(Struct, frozen=True, kw_only=True):
    """A parsed token. `str()` gives the text back; the repr keeps the secret."""

    digest: str
    secret: str

    @override
    def __str__(self) -> str:
        return f"{_PREFIX}-{self.digest}-{self.secret}"

    @override
    def __repr__(self) -> str:
        return f"JoinToken(digest={self.digest!r})"


def base36(number: int, length: int) -> str:
    """A number in exactly that many digits, lower case."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def root_digest(root: x509.Certificate) -> str:
    """The digest a token carries for this root."""
    der = root.public_bytes(serialization.Encoding.DER)
    return base36(int.from_bytes(hashlib.sha256(der).digest(), "big"), _DIGEST_LENGTH)


def token_from(root: x509.Certificate, random_bytes: bytes) -> JoinToken:
    """The token for a root and 16 random bytes."""
    if len(random_bytes) != _SECRET_BYTES:
        raise InvalidArgument(f"a join token takes {_SECRET_BYTES} random bytes")
    secret = base36(int.from_bytes(random_bytes, "big"), _SECRET_LENGTH)
    return JoinToken(digest=root_digest(root), secret=secret)


def parse_token(text: str) -> JoinToken:
    """The token in a text; InvalidArgument says what is wrong, never repeating the secret."""
    stripped = text.strip()
    found = _FORM.fullmatch(stripped)
    if found is not None:
        return JoinToken(digest=found.group(1), secret=found.group(2))
    raise InvalidArgument(_complaint(stripped), field="JoinToken")


def _complaint(text: str) -> str:
    if not text:
        return "a join token is needed; `docker swarm join-token worker` on a manager shows it"
    if text.startswith("SWMTKN-2-"):
        return "invalid join token: FIPS tokens (SWMTKN-2) are not supported"
    if not text.startswith("SWMTKN-"):
        return "invalid join token: it must begin with SWMTKN-1-"
    parts = text.split("-")
    if len(parts) == 4 and (len(parts[2]), len(parts[3])) != (_DIGEST_LENGTH, _SECRET_LENGTH):
        return (
            "invalid join token: its parts must have "
            f"{_DIGEST_LENGTH} and {_SECRET_LENGTH} characters, not "
            f"{len(parts[2])} and {len(parts[3])}; it may have been cut off when it was copied"
        )
    return (
        "invalid join token: it must read SWMTKN-1-<50 characters>-<25 characters>, "
        "in digits and lower-case letters"
    )
