"""Which seeds are run, and silence while they are."""

from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.quiet import quiet


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    one = metafunc.config.getoption("--seed")
    seeds = range(metafunc.config.getoption("--seeds")) if one is None else (one,)
    metafunc.parametrize("seed", seeds)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)
