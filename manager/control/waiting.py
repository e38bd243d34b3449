"""Waiting until this manager's memory shows something, for answers that need the leader's part.

Bounded by the caller: what is not there in time is said, or left for the next look.
"""

import asyncio
from collections.abc import Callable

from manager.store.memory import Memory


async def shows(memory: Memory, holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds within that time; looked at whenever memory changes."""
    changed = asyncio.Event()
    stop = memory.listen(lambda _: changed.set())
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        return False
    finally:
        stop()
    return True
