"""The hosts that tests of a module share, and their networks, of which nothing is left."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.network.lab import (
    SUBNETS,
    Networks,
    hosts,
    leftovers,
    meshed_networks,
)


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    with hosts():
        yield


@pytest.fixture
async def networks(lab: None) -> AsyncIterator[Networks]:
    async with meshed_networks() as made:
        yield made
    for host in SUBNETS:
        assert leftovers(host) == ""
