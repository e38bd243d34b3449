"""What is known to be wrong with versions of etcd. Pure.

Said by `shoal doctor`, and in the log once when a cluster is founded.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

Version = tuple[int, ...]


class Hole(NamedTuple):
    """A fault of etcd from `since` on, mended in `mended` (and in all newer lines)."""

    since: Version
    mended: Version
    what: str
    grave: bool


# From etcd's change logs of 3.5. Those that ours cannot meet (its users' authentication) are
# left out.
HOLES = (
    Hole((3, 5, 0), (3, 5, 3), "may corrupt its data when it is killed under load", True),
    Hole(
        (3, 4, 0),
        (3, 5, 8),
        "may show a watcher the past after it was restored from a leader's snapshot, and its"
        " progress notifications overtake events (Shoal compares all of it again now and then)",
        False,
    ),
    Hole(
        (3, 4, 0),
        (3, 5, 13),
        "may revoke leases wrongly for a deposed leader, and lose events of a watch that falls"
        " behind a compaction (Shoal's sessions and watches begin anew then)",
        False,
    ),
)


def holes_of(number: Version) -> Iterable[Hole]:
    """Those of one version."""
    return (hole for hole in HOLES if hole.since <= number < hole.mended)


def version_in(said: str) -> Version:
    """The first version number in a program's words; () if there is none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()


def text_of(number: Version) -> str:
    """`(3, 5, 8)` as `3.5.8`."""
    return ".".join(map(str, number))
