"""Instants in queries: seconds since 1970 with nanoseconds, RFC 3339, or how long ago. Pure."""

import re
from datetime import UTC, datetime, timedelta

from shoal.model.errors import InvalidArgument

_SECONDS = re.compile(r"(-?)(\d{1,11})(?:\.(\d{1,9})\d*)?")
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
        nanos = int(plain[2]) * 1_000_000_000 + int((plain[3] or "0").ljust(9, "0"))
        return -nanos if plain[1] else nanos
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


def parse_time(text: str, name: str, now: datetime) -> datetime | None:
    """The same to the microsecond; None where nothing was asked."""
    if text in ("", "0"):
        return None
    nanos = parse_instant(text, name, now)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanos // 1000)


def parse_range(since: str, until: str, now: datetime) -> tuple[int | None, int | None]:
    """`since` and `until` of an events request in nanoseconds; None where not given.

    Raises:
        InvalidArgument: one is no instant, or they are the wrong way round.
    """
    first = parse_instant(since, "since", now) if since else None
    last = parse_instant(until, "until", now) if until else None
    if first is not None and last is not None and last < first:
        raise InvalidArgument(
            f"`since` time ({since}) cannot be after `until` time ({until})", field="since"
        )
    return first, last
