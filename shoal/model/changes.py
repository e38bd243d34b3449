"""Changes to objects, decisions made of them, and the events they become.

A decider returns a `Decision`; nothing but the commit writes. Any prefix of a decision's groups
is a correct state, so the commit may split between groups and never within one.
"""

from datetime import datetime

import msgspec

from shoal.model.objects import StoredObject


class Create(msgspec.Struct, frozen=True, tag=True):
    """A new object; its key must not exist."""

    object: StoredObject


class Update(msgspec.Struct, frozen=True, tag=True):
    """The object replaced; `object.guard` is the revision that the change was decided on."""

    object: StoredObject


class Delete(msgspec.Struct, frozen=True, tag=True):
    """The object removed, guarded as an update."""

    object: StoredObject


Change = Create | Update | Delete


class Group(msgspec.Struct, frozen=True):
    """Changes that stand or fall together, and why they are made (for the log).

    `needs` are ids of objects without which they make no sense: if one of them was changed by
    somebody else since, they are not written either.
    """

    changes: tuple[Change, ...]
    reason: str = ""
    needs: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """One thing (an id) of several that a decider could not decide about, and why."""

    about: str
    error: Exception


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to write now, and when to look again even if nothing happens.

    `failures` are those of a decider that looks at many things under one key: the rest is
    decided, and it is asked again after a while.
    """

    groups: tuple[Group, ...] = ()
    wake_at: datetime | None = None
    failures: tuple[Failure, ...] = ()


NOTHING = Decision()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One object as it was and as it is; None stands for not there."""

    before: StoredObject | None = None
    after: StoredObject | None = None

    @property
    def object(self) -> StoredObject:
        """The newest form of it."""
        found = self.after if self.after is not None else self.before
        if found is None:
            raise ValueError("an event is about something")
        return found
