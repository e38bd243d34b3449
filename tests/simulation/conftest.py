"""Which seeds are run, and silence while they are."""

from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.quiet import quiet

FAILED_ONCE = (394, 516, 689, 872, 1122, 1261, 1420, 1912)
"""Seeds beyond the usual ones that told of a mistake, the product's or the checks'."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    one = metafunc.config.getoption("--seed")
    count = metafunc.config.getoption("--seeds")
    kept = [seed for seed in FAILED_ONCE if seed >= count]
    metafunc.parametrize("seed", [*range(count), *kept] if one is None else [one])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)
