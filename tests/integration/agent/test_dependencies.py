"""Secrets and configs as files in memory."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.assignments import NOTHING
from agent.dependencies import Dependencies
from shoal.model.assignment import AssignedTask, Assignments, Payload
from shoal.model.errors import FailedPrecondition, Unavailable
from shoal.model.ids import ServiceID, TaskID
from shoal.model.spec.task import (
    ConfigReference,
    ContainerSpec,
    ReferenceFile,
    SecretReference,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a tmpfs"),
]

SECRET = SecretReference(
    file=ReferenceFile(name="pw", uid="1000", gid="1001", mode=0o400),
    secret_id="s1",
    secret_name="one",
)
CONFIG = ConfigReference(
    file=ReferenceFile(name="etc/app.conf", mode=0o444), config_id="c1", config_name="two"
)
TASK = AssignedTask(
    id=TaskID("t1"),
    service_id=ServiceID("s"),
    service_name="web",
    name="web.1.t1",
    container=ContainerSpec(secrets=(SECRET,), configs=(CONFIG,)),
)
TOLD = Assignments(
    tasks={TASK.id: TASK},
    secrets={"s1": Payload(id="s1", data=b"secret")},
    configs={"c1": Payload(id="c1", data=b"config")},
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "payloads"
    yield place
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def there(path: str) -> bool:
    return Path(path).exists()


async def test_files_have_owner_mode_and_place(place: Path) -> None:
    dependencies = Dependencies(place)
    dependencies.update(TOLD)
    secret, config = await dependencies.provide(TASK)
    assert (secret.target, config.target) == ("/run/secrets/pw", "/etc/app.conf")
    assert (content(secret.source), content(config.source)) == (b"secret", b"config")
    found = os.stat(secret.source)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1000, 1001, 0o400)
    assert f" {place} tmpfs " in content("/proc/self/mounts").decode()


async def test_a_restarted_agent_goes_on_with_what_is_there(place: Path) -> None:
    first = Dependencies(place)
    first.update(TOLD)
    files = await first.provide(TASK)
    assert await Dependencies(place).provide(TASK) == files


async def test_files_go_with_their_task(place: Path) -> None:
    dependencies = Dependencies(place)
    for end in (False, True):
        dependencies.update(TOLD)
        (secret, _) = await dependencies.provide(TASK)
        if end:
            await dependencies.withdraw(TASK.id)
        else:
            dependencies.update(NOTHING)
        assert not there(secret.source)
        assert os.listdir(place) == []
    await dependencies.withdraw(TASK.id)


async def test_what_is_missing_is_waited_for_or_refused(place: Path) -> None:
    dependencies = Dependencies(place)
    with pytest.raises(Unavailable, match="secret one has not been told"):
        await dependencies.provide(TASK)
    gone = {"s1": Payload(id="s1", error="one does not exist any more")}
    dependencies.update(replace(TOLD, secrets=gone))
    with pytest.raises(FailedPrecondition, match="secret one: one does not exist any more"):
        await dependencies.provide(TASK)
    assert not there(str(place))
