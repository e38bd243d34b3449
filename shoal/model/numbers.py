"""Numbers in texts that people send. Pure."""

import re

_WHOLE = re.compile(r"\d{1,18}", re.ASCII)


def whole(text: str) -> int | None:
    """A whole number of plain digits that fits 64 bits; None for any other text.

    Not `int()`: that takes spaces, signs, underscores and digits of every script, and breaks
    on thousands of them.

    >>> whole("080"), whole("-1"), whole("1_0"), whole("9" * 5000)
    (80, None, None, None)
    """
    return int(text) if _WHOLE.fullmatch(text) else None


def within(text: str, least: int, most: int) -> int | None:
    """A whole number between two others, both included."""
    number = whole(text)
    return number if number is not None and least <= number <= most else None
