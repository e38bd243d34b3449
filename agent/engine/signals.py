"""Signals by name or number, as `docker kill -s` and `--stop-signal` give them. Pure."""

import signal

from shoal.model.errors import InvalidArgument

KILL = int(signal.SIGKILL)
TERM = int(signal.SIGTERM)


def parse(text: str, default: int = TERM) -> int:
    """`9`, `KILL`, `sigkill`, `SIGRTMIN+3`; the default where nothing is said."""
    if not text:
        return default
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and (not plus or offset.isdigit()):
        number = int(signal.SIGRTMIN) + int(offset or 0)
        if number <= int(signal.SIGRTMAX):
            return number
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError as error:
        raise InvalidArgument(f"invalid signal: {text}", field="signal") from error
