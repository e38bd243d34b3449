"""Which unused things a prune takes."""

from datetime import UTC, datetime, timedelta

import pytest

from agent.engine.pruning import Pruning
from shoal.common.engine_http.query import Filters
from shoal.model.errors import InvalidArgument

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LABELS = {"keep": "1", "team": "a"}


@pytest.mark.parametrize(
    ("filters", "taken"),
    [
        ({}, True),
        ({"label": ("team=a",)}, True),
        ({"label": ("team=b",)}, False),
        ({"label!": ("keep",)}, False),
        ({"label!": ("other",)}, True),
        ({"until": ("1h",)}, True),
        ({"until": ("24h",)}, False),
        ({"until": ("2026-11-25T09:00:00Z",)}, False),
    ],
)
def test_labels_and_age(filters: dict[str, tuple[str, ...]], taken: bool) -> None:
    chosen = Pruning(Filters(filters), NOW)
    assert chosen.takes(LABELS, NOW - timedelta(hours=2)) is taken


def test_no_instant_is_refused() -> None:
    for given in (("foo",), ("1h", "2h")):
        with pytest.raises(InvalidArgument, match="until"):
            Pruning(Filters({"until": given}), NOW)
