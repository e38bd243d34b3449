"""What every object of the swarm half begins with. Pure."""

from datetime import datetime

from shoal.model.objects import EPOCH, Cluster, Config, Network, Node, Secret, Service, Task

_ZERO_TIME = "0001-01-01T00:00:00Z"
Json = dict[str, object]


def envelope(thing: Cluster | Config | Network | Node | Secret | Service | Task) -> Json:
    """Id, version and instants."""
    return {
        "ID": thing.id,
        "Version": {"Index": thing.version},
        "CreatedAt": instant(thing.created_at),
        "UpdatedAt": instant(thing.updated_at),
    }


def instant(at: datetime | None) -> datetime | str:
    """An instant; Go's zero time where there is none."""
    return at if at is not None and at != EPOCH else _ZERO_TIME
