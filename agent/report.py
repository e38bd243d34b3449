"""The newest status of each task, until a manager has stored it.

Statuses of one task coalesce; one update is on its way at a time, and what comes in meanwhile
goes into the next. A new session is told everything again: that costs a manager nothing where
it is no news, and heals whatever was lost. Filled by the task managers, sent by `session`.
"""

from collections.abc import Callable, Mapping

from shoal.model.ids import TaskID
from shoal.model.objects import TaskStatus


class Reports:
    """What is to be reported. `wake`, if set, is called when there is something to send."""

    def __init__(self) -> None:
        self._newest: dict[TaskID, TaskStatus] = {}
        # In the order they came: the managers write them in that order.
        self._waiting: dict[TaskID, None] = {}
        self._under_way: tuple[TaskID, ...] = ()
        self._sequence = 0
        self.wake: Callable[[], None] | None = None

    def put(self, task: TaskID, status: TaskStatus) -> None:
        """A task's status is this now."""
        self._newest[task] = status
        self._waiting[task] = None
        self.tell()

    def forget(self, task: TaskID) -> None:
        """The task is no longer this node's."""
        self._newest.pop(task, None)
        self._waiting.pop(task, None)

    def begin_session(self) -> None:
        """Nothing is on its way; everything is to be said."""
        self._sequence = 0
        self._under_way = ()
        self._waiting = dict.fromkeys(self._newest)

    def take(self) -> tuple[int, Mapping[TaskID, TaskStatus]] | None:
        """The next update and its number; None if there is none, or one is on its way."""
        if self._under_way or not self._waiting:
            return None
        self._sequence += 1
        self._under_way, self._waiting = tuple(self._waiting), {}
        return self._sequence, {task: self._newest[task] for task in self._under_way}

    def acknowledge(self, sequence: int) -> None:
        """The update of that number, and those before it, are stored."""
        if sequence >= self._sequence:
            self._under_way = ()
            if self._waiting:
                self.tell()

    @property
    def settled(self) -> bool:
        """Everything was sent and acknowledged."""
        return not self._waiting and not self._under_way

    def tell(self) -> None:
        """Wake whoever speaks to the manager: there may be something to say."""
        if self.wake is not None:
            self.wake()
