"""VXLAN network identifiers. Pure.

A network's own id decides where the search begins, so that an identifier does not go to another
network soon after its first one went: a host that was cut off may still send with it.
"""

from collections.abc import Collection
from zlib import crc32

from shoal.model.ids import NetworkID

GATEWAY = 4095
"""The gateway network's, which the agents know."""
FIRST = 4096
LAST = (1 << 24) - 1


def choose(network: NetworkID, taken: Collection[int]) -> int | None:
    """A free one; None where all are taken."""
    count = LAST - FIRST + 1
    start = crc32(network.encode()) % count
    for step in range(len(taken) + 1):
        found = FIRST + (start + step) % count
        if found not in taken:
            return found
    return None
