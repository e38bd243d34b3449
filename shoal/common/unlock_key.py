"""The key that unlocks managers, as people type it: `SWMKEY-1-` and 32 bytes in base64.

The form is Swarm's (docker-swarm.md 1.1). Used by managers only.
"""

import base64
import binascii

from shoal.model.errors import InvalidArgument

KEY_BYTES = 32
_PREFIX = "SWMKEY-1-"


def unlock_key_text(key: bytes) -> str:
    """What `docker swarm unlock-key` shows."""
    return _PREFIX + base64.b64encode(key).decode().rstrip("=")


def parse_unlock_key(text: str) -> bytes:
    """The 32 bytes; InvalidArgument for what is no such key."""
    encoded = text.strip().removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.strip().startswith(_PREFIX) or len(key) != KEY_BYTES:
        raise InvalidArgument(
            f"UnlockKey: invalid key: an unlock key is {_PREFIX} followed by 43 characters",
            field="UnlockKey",
        )
    return key
