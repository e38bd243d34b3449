"""Instants in queries: seconds since 1970 with nanoseconds, RFC 3339, or how long ago. Pure."""

import re
from datetime import UTC, datetime

from shoal.model.errors import InvalidArgument

_SECONDS = re.compile(r"(\d{1,12})(?:\.(\d{1,9})\d*)?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def nanoseconds(at: datetime) -> int:
    """Since 1970, exact."""
    span = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (span.days * 86_400 + span.seconds) * 1_000_000_000 + span.microseconds * 1_000


def parse_instant(text: str, name: str, now: datetime) -> int:
    """Nanoseconds since 1970.

    >>> parse_instant("1.5", "since", datetime.now(UTC))
    1500000000
    """
    plain = _SECONDS.fullmatch(text)
    if plain is not None:
        return int(plain[1]) * 1_000_000_000 + int((plain[2] or "0").ljust(9, "0"))
    if text and _DURATION.sub("", text) == "":
        ago = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
        return nanoseconds(now) - int(ago)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(
            f"invalid value for '{name}': {text!r} is no instant (seconds since 1970,"
            " RFC 3339, or a duration such as 10m)",
            field=name,
        ) from error
    return nanoseconds(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
