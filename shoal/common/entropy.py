"""The shells' source of ids and random numbers; seeded twins of it drive the simulation."""

import random
import secrets

from shoal.model.ids import ID_BITS, id_from_bits


class SystemIds:
    """Cluster ids from the system's entropy; implements `shoal.model.ids.IdSource`."""

    def new(self) -> str:
        return id_from_bits(secrets.randbits(ID_BITS))


class SeededIds:
    """The same ids for the same seed: an `IdSource` for simulation and tests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose

    def new(self) -> str:
        return id_from_bits(self._random.getrandbits(ID_BITS))


def new_hex_id() -> str:
    """A container, exec or network id as the Docker Engine forms them: 64 hex digits."""
    return secrets.token_hex(32)


def random_bytes(count: int) -> bytes:
    """Bytes for keys and tokens."""
    return secrets.token_bytes(count)
