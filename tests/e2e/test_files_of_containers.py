"""`docker cp`, `diff` and `export` on one host: running and stopped, volumes and links."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

MAKE = "mkdir -p /d/e; echo hi >/d/e/f; ln -s /d/e /link; echo v >/vol/f; rm /bin/vi; sleep 600"


@pytest.fixture
def box(host: Cluster) -> Iterator[str]:
    """A container that has changed some files."""
    host.docker("m1", "run", "-d", "--name", "box", "-v", "/vol", "busybox", "sh", "-c",
                MAKE + " & wait")  # fmt: skip
    host.docker("m1", "exec", "box", "sh", "-c", "until [ ! -e /bin/vi ]; do :; done")
    yield "box"
    host.docker("m1", "rm", "-fv", "box")


def test_copy_out(host: Cluster, box: str, tmp_path: Path) -> None:
    host.docker("m1", "cp", f"{box}:/d", str(tmp_path))
    assert (tmp_path / "d/e/f").read_text() == "hi\n"
    host.docker("m1", "cp", f"{box}:/link", str(tmp_path / "link"))
    assert (tmp_path / "link").readlink() == Path("/d/e")
    host.docker("m1", "cp", "-L", f"{box}:/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed/f").read_text() == "hi\n"
    host.docker("m1", "cp", f"{box}:/", str(tmp_path / "all"))
    assert (tmp_path / "all/vol/f").read_text() == "v\n"


def test_copy_in_also_while_it_is_stopped(host: Cluster, box: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    host.docker("m1", "cp", str(tmp_path / "one"), f"{box}:/link/one")
    assert host.docker("m1", "exec", box, "cat", "/d/e/one") == "one"
    host.docker("m1", "stop", "-t", "0", box)
    host.docker("m1", "cp", str(tmp_path / "one"), f"{box}:/vol/two")
    host.docker("m1", "start", box)
    assert host.docker("m1", "exec", box, "cat", "/vol/two") == "one"
    refused = host.docker("m1", "cp", str(tmp_path), f"{box}:/d/e/f", check=False)
    assert "cannot copy directory" in refused


def test_copy_into_a_volume_before_the_first_start(host: Cluster, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    host.docker("m1", "create", "--name", "fresh", "-v", "/in/vol", "busybox", "cat",
                "/in/vol/one")  # fmt: skip
    try:
        host.docker("m1", "cp", str(tmp_path / "one"), "fresh:/in/vol")
        assert host.docker("m1", "start", "-a", "fresh") == "one"
    finally:
        host.docker("m1", "rm", "-fv", "fresh")


def test_an_archive_cannot_leave_the_container(host: Cluster, box: str) -> None:
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"))
    done = subprocess.run(
        ["docker", "-H", host.hosts["m1"]["docker_host"], "cp", "-", f"{box}:/tmp"],
        input=hostile.getvalue(),
        capture_output=True,
        check=False,
    )
    assert b"leads out of it" in done.stderr


def test_difference_and_export(host: Cluster, box: str) -> None:
    changes = host.docker("m1", "diff", box).splitlines()
    assert {"C /bin", "D /bin/vi", "A /d", "A /d/e/f", "A /link"} <= set(changes)
    done = subprocess.run(
        ["docker", "-H", host.hosts["m1"]["docker_host"], "export", box],
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = archive.getnames()
    assert {"bin/sh", "d/e/f", "link"} <= set(names)
    assert "bin/vi" not in names
    assert "vol/f" not in names
