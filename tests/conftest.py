"""What every test run needs: no event loop that nobody closes."""

import asyncio


def pytest_configure() -> None:
    """Keep asyncio from making an event loop of its own in the main thread.

    looptime asks the policy for its loop in synchronous tests too, and a policy nobody has told
    otherwise makes one, which is then dropped unclosed at the first asynchronous test.
    """
    asyncio.set_event_loop(None)
