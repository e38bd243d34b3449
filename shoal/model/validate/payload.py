"""The rules of secrets and configs: name and size. Pure."""

import re

from shoal.model.validate.refusal import invalid

SECRET_BYTES = 500 * 1024
CONFIG_BYTES = 1000 * 1024
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-_.]{0,62}[a-zA-Z0-9])?", re.ASCII)


def check_payload_name(name: str) -> None:
    """A name that can be a file's."""
    if not _NAME.fullmatch(name):
        raise invalid(
            "Name",
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end"
            " character must be [a-zA-Z0-9]",
        )


def check_payload(data: bytes, kind: str, limit: int) -> None:
    """Some bytes, fewer than the limit."""
    if not 1 <= len(data) < limit:
        raise invalid("Data", f"{kind} data must be larger than 0 and less than {limit} bytes")
