"""The containers of this host by id and name. Names are reserved before anything is made."""

import random
from collections.abc import Iterator

from agent.engine import names
from agent.engine.container import Container
from shoal.model.errors import Conflict, InvalidArgument, NotFound

_ATTEMPTS = 6


class Registry:
    """All containers; lookup as Docker does it: whole id, name, start of an id."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._containers.values()))

    def __len__(self) -> int:
        return len(self._containers)

    def get(self, container_id: str) -> Container | None:
        """A container by its whole id."""
        return self._containers.get(container_id)

    def find(self, text: str) -> Container:
        """The container meant.

        Raises:
            NotFound: none, or InvalidArgument: several begin so.
        """
        owner = self._names.get(text.removeprefix("/"))
        found = self._containers.get(text) or self._containers.get(owner or "")
        if found is not None:
            return found
        matches = [c for key, c in self._containers.items() if text and key.startswith(text)]
        if len(matches) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NotFound(f"No such container: {text}")
        return matches[0]

    def reserve(self, name: str, container_id: str) -> str:
        """Take a name, or invent one where it is empty; returns the name.

        Raises:
            Conflict: it is taken.
        """
        if not name:
            name = self._invented()
        name = names.check(name)
        owner = self._names.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container'
                f' "{owner}". You have to remove (or rename) that container to be able to'
                " reuse that name."
            )
        self._names[name] = container_id
        return name

    def release(self, name: str, container_id: str) -> None:
        """Give a name back, if it is still this container's."""
        if self._names.get(name) == container_id:
            del self._names[name]

    def add(self, container: Container) -> None:
        """Keep a container; its name is reserved already."""
        self._names[container.record.name] = container.id
        self._containers[container.id] = container

    def drop(self, container: Container) -> None:
        """Forget a container and its name."""
        self._containers.pop(container.id, None)
        self.release(container.record.name, container.id)

    def _invented(self) -> str:
        for attempt in range(_ATTEMPTS):
            name = names.invent(self._chance, attempt)
            if name not in self._names:
                return name
        return f"container_{self._chance.getrandbits(64):016x}"
