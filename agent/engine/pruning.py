"""Which unused things a prune takes, by its filters `label`, `label!` and `until`. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from shoal.common.engine_http.instants import parse_instant
from shoal.common.engine_http.query import Filters
from shoal.model.errors import InvalidArgument

FILTERS = frozenset({"label", "label!", "until"})


class Pruning:
    """The filters of one request, read at `now`."""

    def __init__(self, filters: Filters, now: datetime) -> None:
        self._filters = filters
        self._until: datetime | None = None
        given = filters.get("until")
        if len(given) > 1:
            raise InvalidArgument("more than one until filter specified", field="filters.until")
        if given:
            nanos = parse_instant(given[0], "until", now)
            self._until = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
                microseconds=nanos // 1000
            )

    def takes(self, labels: Mapping[str, str], made: datetime | None = None) -> bool:
        """Whether something unused goes; what is of unknown age goes with every `until`."""
        if self._until is not None and made is not None and made > self._until:
            return False
        if not self._filters.labels(labels):
            return False
        return "label!" not in self._filters or not self._filters.labels(labels, "label!")
