"""Memory overlaid with the changes of one pass; the deciders' `View` while a pass runs.

So the scheduler sees the tasks that the orchestrator has made a moment ago. A draft is thrown
away after its commit: what was written comes back through the feed.
"""

from collections.abc import Iterable

from manager.store.tables import Tables
from shoal.model.changes import Change, Create, Delete, Event, Update


class Draft(Tables):
    """Implements `manager.view.View`."""

    def __init__(self, below: Tables) -> None:
        super().__init__(below)

    def apply(self, changes: Iterable[Change]) -> tuple[Event, ...]:
        """Overlay changes; returns them as the events that they will become."""
        events = []
        for change in changes:
            match change:
                case Create(thing) | Update(thing):
                    events.append(Event(before=self.put(thing), after=thing))
                case Delete(thing):
                    events.append(Event(before=self.drop(thing.id), after=None))
        return tuple(events)
