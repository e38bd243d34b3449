"""Times in queries: Unix seconds with a fraction, RFC 3339. Pure."""

from datetime import UTC, datetime

from shoal.model.errors import InvalidArgument


def parse(text: str, name: str) -> datetime | None:
    """An instant; None for "" and 0, which ask for nothing."""
    if text in ("", "0"):
        return None
    try:
        if text.replace(".", "", 1).lstrip("-").isdigit():
            return datetime.fromtimestamp(float(text), UTC)
        parsed = datetime.fromisoformat(text)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidArgument(f"invalid value for {name}: {text}", field=name) from error
