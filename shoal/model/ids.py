"""Identifiers: one type per kind, made from given bits, never from chance of their own.

The form of cluster ids is Swarm's: 25 characters of base 36. Container, exec and image ids are
64 hex digits as the Docker Engine's.
"""

from typing import NewType, Protocol

NodeID = NewType("NodeID", str)
ServiceID = NewType("ServiceID", str)
TaskID = NewType("TaskID", str)
NetworkID = NewType("NetworkID", str)
SecretID = NewType("SecretID", str)
ConfigID = NewType("ConfigID", str)
ClusterID = NewType("ClusterID", str)
ContainerID = NewType("ContainerID", str)

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
ID_BITS = 129


class IdSource(Protocol):
    """Where new ids come from: entropy in the shells, a seeded source in the simulation."""

    def new(self) -> str:
        """A fresh cluster id: 25 characters of base 36."""
        ...


def id_from_bits(bits: int) -> str:
    """The 25-character base 36 form of a non-negative number; higher digits are cut off.

    >>> id_from_bits(35)
    '000000000000000000000000z'
    """
    digits = []
    for _ in range(ID_LENGTH):
        bits, digit = divmod(bits, 36)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
