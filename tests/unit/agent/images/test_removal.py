"""Docker's rules and sentences for `docker rmi`."""

import pytest

from agent.images.catalog import Record
from agent.images.removal import Use, decide_removal
from shoal.model.errors import Conflict
from shoal.model.reference import parse_reference

_ID = "sha256:" + "1" * 64
_DIGEST = "docker.io/library/a@sha256:" + "2" * 64
_STOPPED = (Use(owner="c" * 64, running=False),)
_RUNNING = (Use(owner="d" * 64, running=True),)


def record(*tags: str, digests: tuple[str, ...] = ()) -> Record:
    full = tuple(parse_reference(tag).full for tag in tags)
    return Record(id=_ID, manifest=_ID, tags=full, digests=digests)


def test_one_of_several_names() -> None:
    removal = decide_removal(record("a:1", "b:1"), parse_reference("a:1"), (), force=False)
    assert removal.untagged == ("docker.io/library/a:1",)
    assert not removal.deleted


def test_the_last_tag_takes_the_digests_of_its_repository_along() -> None:
    image = record("a:1", digests=(_DIGEST,))
    removal = decide_removal(image, parse_reference("a:1"), (), force=False)
    assert removal.untagged == ("docker.io/library/a:1", _DIGEST)
    assert removal.deleted


def test_by_id_needs_force_when_several_repositories_have_it() -> None:
    with pytest.raises(Conflict, match="is referenced in multiple repositories"):
        decide_removal(record("a:1", "b:1"), None, (), force=False)
    assert decide_removal(record("a:1", "b:1"), None, (), force=True).deleted


@pytest.mark.parametrize(
    ("uses", "force", "sentence"),
    [
        (_STOPPED, False, r"\(must be forced\) - image is being used by stopped container c"),
        (_RUNNING, False, r"\(cannot be forced\) - image is being used by running container d"),
        (_RUNNING, True, r"\(cannot be forced\)"),
    ],
)
def test_by_id_in_use(uses: tuple[Use, ...], force: bool, sentence: str) -> None:
    with pytest.raises(Conflict, match=sentence):
        decide_removal(record("a:1"), None, uses, force=force)


def test_forced_off_a_running_container_only_the_name_goes() -> None:
    removal = decide_removal(record("a:1"), parse_reference("a:1"), _RUNNING, force=True)
    assert removal.untagged == ("docker.io/library/a:1",)
    assert not removal.deleted
    assert decide_removal(record("a:1"), parse_reference("a:1"), _STOPPED, force=True).deleted
