"""API versions: which we speak, and how a client's is read from the path. Pure."""

import re

from shoal.model.errors import InvalidArgument

Version = tuple[int, int]

MINIMUM: Version = (1, 24)
MAXIMUM: Version = (1, 50)
ENGINE = "28.2.2"
"""The engine release whose API this is; clients print and compare it."""

_PATH = re.compile(r"/v(\d{1,30}(?:\.\d{1,30}){0,9})(/.*)", re.DOTALL | re.ASCII)


def text_of(version: Version) -> str:
    """`(1, 50)` as `1.50`."""
    return f"{version[0]}.{version[1]}"


def split_path(path: str) -> tuple[Version, str]:
    """The version a path names (the newest where it names none) and the path without it.

    Raises:
        InvalidArgument: a version that we do not speak.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return MAXIMUM, path
    asked = match[1]
    parts = tuple(int(part) for part in asked.split(".")[:2])
    version = (parts[0], parts[1] if len(parts) > 1 else 0)
    if version < MINIMUM:
        raise InvalidArgument(
            f"client version {asked} is too old. Minimum supported API version is"
            f" {text_of(MINIMUM)}, please upgrade your client to a newer version"
        )
    if version > MAXIMUM:
        raise InvalidArgument(
            f"client version {asked} is too new. Maximum supported API version is"
            f" {text_of(MAXIMUM)}"
        )
    return version, match[2]
