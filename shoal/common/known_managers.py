"""Where the managers are, on disk: what a host asks its way in by.

Written by the agent when it founds or joins a cluster and before it starts a manager; read by
that manager, and by an agent that has not been told of the managers since.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

_FILE = "managers.json"


def save_managers(state: str, managers: Sequence[str]) -> None:
    """Keep the managers' gRPC addresses (`host:port`)."""
    path = Path(state) / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(_FILE + ".new")
    fresh.write_bytes(msgspec.json.encode(tuple(managers)))
    fresh.replace(path)


def load_managers(state: str) -> tuple[str, ...]:
    """The addresses kept; none where there never were any."""
    try:
        return msgspec.json.decode((Path(state) / _FILE).read_bytes(), type=tuple[str, ...])
    except FileNotFoundError:
        return ()
