"""Waiting until this manager's memory shows something, for answers that need the leader's part.

Bounded by the caller: what is not there in time is said, or left for the next look.
"""

import asyncio
from collections.abc import Callable

from manager.store.memory import Memory
from shoal.model.objects import Object


async def shows(memory: Memory, holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds within that time; looked at whenever memory changes."""
    with memory.woken_by(Object) as changed:
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            return False
    return True
