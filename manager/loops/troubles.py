"""Keys whose decider fails: when each is asked again, and where their objects say so.

One poisoned object must not keep the rest of the cluster waiting (`loop`). What raised is in
the leader's log with its trace; users read one sentence, where the object has a place for it.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec.structs import replace

from manager.view import View
from shoal.common.backoff import Backoff
from shoal.model.changes import Change, Group, Update
from shoal.model.ids import NodeID, ServiceID, TaskID
from shoal.model.objects import Task
from shoal.model.states import TaskState, UpdateState

_log = structlog.get_logger(__name__)

AGAIN = Backoff(first=1.0, cap=60.0)
PREFIX = "internal error in "


class Place(msgspec.Struct, frozen=True):
    """Where the objects of a row say that its decider fails.

    `say` puts a sentence there, or takes ours away where it is empty; `said` are the keys whose
    object has one, from a leader before.
    """

    say: Callable[[View, str, str, datetime], tuple[Group, ...]]
    said: Callable[[View], Iterable[str]]


class _Failing(msgspec.Struct):
    delays: Iterator[float]
    due: datetime | None


class Troubles:
    """The keys that fail, by row."""

    def __init__(self) -> None:
        self._failing: dict[tuple[int, str], _Failing] = {}

    def inherit(self, position: int, key: str) -> None:
        """It failed with the leader before."""
        self._failing[position, key] = _Failing(AGAIN.longest(), None)

    def failed(self, position: int, key: str, now: datetime) -> datetime | None:
        """It failed (again): when to ask again; None where that is arranged already."""
        found = self._failing.setdefault((position, key), _Failing(AGAIN.longest(), None))
        if found.due is not None and found.due > now:
            return None
        found.due = now + timedelta(seconds=next(found.delays))
        return found.due

    def sound(self, position: int, key: str) -> bool:
        """It did not fail; whether it had before."""
        return self._failing.pop((position, key), None) is not None


def sentence_of(row: str, error: Exception) -> str:
    """What users are told.

    >>> sentence_of("update", ValueError("7 is no port"))
    "internal error in update: ValueError('7 is no port'); it is tried again"
    """
    return f"{PREFIX}{row}: {error!r}; it is tried again"


def said_of(
    place: Place, view: View, key: str, sentence: str, now: datetime
) -> tuple[Group, ...]:
    """What says it; nothing where even that fails, for the object is poisoned already."""
    try:
        return place.say(view, key, sentence, now)
    except Exception as error:  # noqa: BLE001 - trouble of one object stays with it
        _log.error("cannot say that a decider failed", key=key, exc_info=error)
        return ()


def _nowhere(view: View, key: str, sentence: str, now: datetime) -> tuple[Group, ...]:
    del view, key, sentence, now
    return ()


def _nobody(view: View) -> Iterable[str]:
    del view
    return ()


NO_PLACE = Place(_nowhere, _nobody)


def _group(*changes: Change) -> tuple[Group, ...]:
    return (Group(changes, "what its decider failed with"),) if changes else ()


def _differs(present: str, sentence: str) -> bool:
    return present != sentence if sentence else present.startswith(PREFIX)


# -- services: the update's message


_USUAL = {
    UpdateState.UPDATING: "update in progress",
    UpdateState.ROLLBACK_STARTED: "rollback in progress",
}


def _of_service(view: View, key: str, sentence: str, now: datetime) -> tuple[Group, ...]:
    service = view.service(ServiceID(key))
    status = service.update_status if service is not None else None
    if service is None or status is None or not _differs(status.message, sentence):
        return ()
    status = replace(status, message=sentence or _USUAL.get(status.state, ""))
    return _group(Update(replace(service, update_status=status, updated_at=now)))


def _services(view: View) -> Iterable[str]:
    for service in view.services():
        status = service.update_status
        if status is not None and status.message.startswith(PREFIX):
            yield service.id


SERVICE = Place(_of_service, _services)


# -- nodes: their message


def _of_node(view: View, key: str, sentence: str, now: datetime) -> tuple[Group, ...]:
    node = view.node(NodeID(key))
    if node is None or not _differs(node.message, sentence):
        return ()
    return _group(Update(replace(node, message=sentence, updated_at=now)))


def _nodes(view: View) -> Iterable[str]:
    return [node.id for node in view.nodes() if node.message.startswith(PREFIX)]


NODE = Place(_of_node, _nodes)


# -- tasks that wait: their error, until the next step takes its place


def _waits(task: Task, sentence: str, now: datetime) -> Iterable[Change]:
    if task.status.state is not TaskState.NEW or not _differs(task.status.err, sentence):
        return
    status = replace(task.status, timestamp=now, message=sentence, err=sentence)
    yield Update(replace(task, status=status, updated_at=now))


def _of_new_tasks(view: View, key: str, sentence: str, now: datetime) -> tuple[Group, ...]:
    return tuple(
        group
        for task in view.tasks_of_service(ServiceID(key))
        for group in _group(*_waits(task, sentence, now))
    )


def _of_task(view: View, key: str, sentence: str, now: datetime) -> tuple[Group, ...]:
    task = view.task(TaskID(key))
    return _group(*_waits(task, sentence, now)) if task is not None else ()


NEW_TASKS = Place(_of_new_tasks, _nobody)
TASK = Place(_of_task, _nobody)
