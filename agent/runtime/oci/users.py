"""Who a `User` string means, by the text of an image's passwd and group files. P.

Called by `agent.runtime.oci.rootfs`, which reads the files.
"""

from collections.abc import Sequence

from agent.runtime.oci.request import User
from shoal.model.errors import InvalidArgument
from shoal.model.numbers import within


def find_user(wanted: str, passwd: str, group: str, extra: Sequence[str] = ()) -> User:
    """Docker's rules: names must exist, numbers need not; an explicit group drops the others.

    `extra` are further groups by name or number (`GroupAdd`).
    """
    name, _, group_name = wanted.partition(":")
    users = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 5]
    groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 2]
    entry = _entry(users, name or "0")
    if entry is None and not _number(name or "0"):
        raise InvalidArgument(
            f"unable to find user {name}: no matching entries in passwd file", field="User"
        )
    uid = int(entry[2]) if entry else int(name or "0")
    gid = int(entry[3]) if entry and _number(entry[3]) else 0
    more: list[int] = []
    if group_name:
        gid = _group(groups, group_name)
    elif entry:
        more = [int(row[2]) for row in groups if _member(row, entry[0]) and _number(row[2])]
    more += [_group(groups, text) for text in extra]
    home = (entry[5] if entry else "") or "/"
    return User(uid=uid, gid=gid, groups=tuple(dict.fromkeys(more)), home=home)


def _entry(users: Sequence[list[str]], wanted: str) -> list[str] | None:
    """By name first, then by number, as libcontainer does."""
    for column in (0, 2):
        for row in users:
            if row[column] == wanted and _number(row[2]):
                return row
    return None


def _group(groups: Sequence[list[str]], wanted: str) -> int:
    for column in (0, 2):
        for row in groups:
            if row[column] == wanted and _number(row[2]):
                return int(row[2])
    if not _number(wanted):
        raise InvalidArgument(
            f"unable to find group {wanted}: no matching entries in group file", field="User"
        )
    return int(wanted)


def _member(row: Sequence[str], name: str) -> bool:
    return len(row) > 3 and name in row[3].split(",")


def _number(text: str) -> bool:
    return within(text, 0, (1 << 31) - 1) is not None
