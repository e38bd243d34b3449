"""What every test run needs: no event loop that nobody closes."""

import asyncio

import pytest


def pytest_configure() -> None:
    """Keep asyncio from making an event loop of its own in the main thread.

    looptime asks the policy for its loop in synchronous tests too, and a policy nobody has told
    otherwise makes one, which is then dropped unclosed at the first asynchronous test.
    """
    asyncio.set_event_loop(None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is run; given to every run of pytest by `./scripts/test`."""
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=200, help="how many histories are simulated")
    group.addoption("--seed", type=int, default=None, help="the one history to simulate")
    group = parser.getgroup("e2e")
    group.addoption("--full", action="store_true", help="take the whole numbers of test_leaks")
