"""Which containers a list request means. Pure."""

from collections.abc import Callable, Iterable

from agent.engine import ports
from agent.engine.describe import Shown
from agent.engine.shown_networks import identities, places
from shoal.common.engine_http.query import Filters
from shoal.model.errors import InvalidArgument
from shoal.model.numbers import whole

FILTERS = frozenset(
    {
        "ancestor",
        "before",
        "expose",
        "exited",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    }
)
_STATUSES = frozenset(
    {"created", "running", "paused", "restarting", "removing", "exited", "dead"}
)
_HEALTH = frozenset({"none", "starting", "healthy", "unhealthy"})


def select(
    containers: Iterable[Shown],
    filters: Filters,
    *,
    every: bool,
    limit: int,
    find: Callable[[str], Shown],
    image_id: Callable[[str], str],
) -> list[Shown]:
    """The containers meant, youngest first."""
    _check(filters)
    found = sorted(containers, key=lambda s: s.record.created_at, reverse=True)
    found = _between(found, filters, find)
    wanted_images = {image_id(text) for text in filters.get("ancestor")}
    chosen: list[Shown] = []
    for shown in found:
        if limit > 0 and len(chosen) == limit:
            break
        narrow = limit <= 0 and not every and not ({"status", "exited"} & _keys(filters))
        if narrow and not shown.record.state.running:
            continue
        if wanted_images and shown.record.image_id not in wanted_images:
            continue
        if _matches(shown, filters):
            chosen.append(shown)
    return chosen


def _keys(filters: Filters) -> set[str]:
    return {key for key in FILTERS if key in filters}


def _check(filters: Filters) -> None:
    for key, known in (("status", _STATUSES), ("health", _HEALTH)):
        for value in filters.get(key):
            if value not in known:
                raise InvalidArgument(f"invalid filter '{key}={value}'", field="filters")
    for value in filters.get("exited"):
        if whole(value.removeprefix("-")) is None:
            raise InvalidArgument(f"invalid filter 'exited={value}'", field="filters")


def _between(found: list[Shown], filters: Filters, find: Callable[[str], Shown]) -> list[Shown]:
    for name in filters.get("before"):
        edge = find(name).record.created_at
        found = [s for s in found if s.record.created_at < edge]
    for name in filters.get("since"):
        edge = find(name).record.created_at
        found = [s for s in found if s.record.created_at > edge]
    return found


def _matches(shown: Shown, filters: Filters) -> bool:
    record = shown.record
    health = shown.health.status if shown.health else "none"
    exited = record.state.status == "exited" and record.state.started_at is not None
    checks = (
        filters.prefix("id", record.id),
        filters.pattern("name", record.name, "/" + record.name),
        filters.labels(record.config.labels),
        filters.exact("status", record.state.status),
        filters.exact("health", health),
        filters.exact("isolation", "default", ""),
        "exited" not in filters or (exited and filters.exact("exited", _code(shown))),
        filters.truth("is-task") in (None, bool(record.owner)),
        filters.exact("network", *identities(places(record, shown.networks))),
        _volume(shown, filters),
        _ports(shown, filters),
    )
    return all(checks)


def _code(shown: Shown) -> str:
    return str(shown.record.state.exit_code)


def _volume(shown: Shown, filters: Filters) -> bool:
    names = [m.name for m in shown.record.mounts if m.name]
    places = [m.destination for m in shown.record.mounts]
    return filters.exact("volume", *names, *places)


def _ports(shown: Shown, filters: Filters) -> bool:
    record = shown.record
    published = [
        f"{p.container_port}/{p.protocol}"
        for p in (record.endpoint.ports if record.endpoint else ())
    ]
    exposed = [*published, *record.config.exposed_ports]
    return all(
        key not in filters or any(_port(value) in candidates for value in filters.get(key))
        for key, candidates in (("publish", published), ("expose", exposed))
    )


def _port(text: str) -> str:
    protocol, port = ports.split(text)
    return f"{port}/{protocol}"
