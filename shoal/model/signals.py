"""Signals by name or number, as `docker kill -s` and `--stop-signal` give them. Pure."""

import signal

from shoal.model.errors import InvalidArgument
from shoal.model.numbers import within

KILL = int(signal.SIGKILL)
TERM = int(signal.SIGTERM)


def parse(text: str, default: int = TERM) -> int:
    """`9`, `KILL`, `sigkill`, `SIGRTMIN+3`; the default where nothing is said."""
    if not text:
        return default
    name = text.upper().removeprefix("SIG")
    if (number := within(name, 1, signal.NSIG - 1)) is not None:
        return number
    base, plus, offset = name.partition("+")
    room = int(signal.SIGRTMAX) - int(signal.SIGRTMIN)
    if base == "RTMIN" and (further := within(offset if plus else "0", 0, room)) is not None:
        return int(signal.SIGRTMIN) + further
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError as error:
        raise InvalidArgument(f"invalid signal: {text}", field="signal") from error
