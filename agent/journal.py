"""What the agent must know of its cluster before it reaches any manager: one JSON file.

Assigned tasks and their last statuses, the greatest stamp applied, mesh, published ports,
managers. Never secrets, configs or registry credentials. A restarted agent goes on with the
tasks in here as if it had been told a moment ago. Written by `agent.worker` alone.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
from msgspec import field
from msgspec.structs import replace

from shoal.model.assignment import Assignments, Stamp
from shoal.model.errors import Internal
from shoal.model.ids import TaskID
from shoal.model.objects import TaskStatus

_log = structlog.get_logger(__name__)

FILE = "agent.json"
NO_STAMP = Stamp(incarnation=0, epoch=0, revision=0)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept. `assignments` are without what is secret."""

    stamp: Stamp = NO_STAMP
    assignments: Assignments = Assignments()
    statuses: Mapping[TaskID, TaskStatus] = field(default_factory=dict)


def without_secrets(assignments: Assignments) -> Assignments:
    """What may go to disk."""
    return replace(
        assignments,
        tasks={
            key: replace(task, registry_auth="") if task.registry_auth else task
            for key, task in assignments.tasks.items()
        },
        secrets={},
        configs={},
    )


class Journal:
    """The file in a directory; replaced as a whole. Blocking: call it from a thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def load(self) -> Entry:
        """What was kept; nothing where there is no file or it cannot be read.

        A damaged one is put aside: the managers tell everything anew, and the containers are
        found by their labels.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Entry)
        except FileNotFoundError:
            return Entry()
        except msgspec.DecodeError as error:
            _log.error("journal damaged", path=str(self._path), reason=str(error))
            self._path.replace(self._path.with_suffix(".damaged"))
            return Entry()

    def save(self, entry: Entry) -> None:
        """Replace it; on the disk when this returns."""
        temporary = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(msgspec.json.encode(entry))
                file.flush()
                os.fdatasync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise Internal(f"cannot write {self._path}: {error.strerror}") from error

    def remove(self) -> None:
        """Forget everything, on leaving the cluster. Idempotent."""
        self._path.unlink(missing_ok=True)
