"""How a spec is refused: a sentence as Swarm words it, and the path of the field. Pure."""

from collections.abc import Callable

import msgspec

from shoal.model.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfSequence,
    Unimplemented,
)


def invalid(path: str, sentence: str) -> InvalidArgument:
    """A value that is wrong in itself.

    >>> str(invalid("Name", "must be given"))
    'rpc error: code = InvalidArgument desc = Name: must be given'
    """
    said = f"{path}: {sentence}" if path else sentence
    return InvalidArgument(f"rpc error: code = InvalidArgument desc = {said}", field=path)


def unimplemented(path: str, sentence: str) -> Unimplemented:
    """A value that would be right, for which there is nothing behind it yet."""
    said = f"{path}: {sentence}" if path else sentence
    return Unimplemented(f"rpc error: code = Unimplemented desc = {said}")


def precondition(sentence: str) -> FailedPrecondition:
    """A right request that the state of the cluster does not allow."""
    return FailedPrecondition(f"rpc error: code = FailedPrecondition desc = {sentence}")


def exists(kind: str, name: str) -> AlreadyExists:
    """A name that is taken; Swarm says more of a service's."""
    conflict = "name conflicts with an existing object: " if kind == "service" else ""
    return AlreadyExists(
        f"rpc error: code = AlreadyExists desc = {conflict}{kind} {name} already exists"
    )


def missing(kind: str, text: str) -> NotFound:
    """Nothing of that name or id."""
    return NotFound(f"{kind} {text} not found")


def ambiguous(kind: str, text: str, count: int) -> InvalidArgument:
    """More than one thing whose id begins so."""
    return InvalidArgument(f"{kind} {text} is ambiguous ({count} matches found)")


def out_of_sequence() -> OutOfSequence:
    """The object was changed since the caller read it."""
    return OutOfSequence("rpc error: code = Unknown desc = update out of sequence")


class Wording(msgspec.Struct, frozen=True):
    """How a half of the API refuses: what both share is checked once and said in its words."""

    invalid: Callable[[str, str], InvalidArgument]
    unimplemented: Callable[[str, str], Unimplemented]


def _invalid_here(path: str, sentence: str) -> InvalidArgument:
    return InvalidArgument(sentence, field=path)


def _unimplemented_here(path: str, sentence: str) -> Unimplemented:
    return Unimplemented(f"{path}: {sentence}")


OF_CLUSTER = Wording(invalid, unimplemented)
"""Of services: Swarm's form, with the path of the field."""

OF_HOST = Wording(_invalid_here, _unimplemented_here)
"""Of a person's containers: Docker's sentences as they are."""
