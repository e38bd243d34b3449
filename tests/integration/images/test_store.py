"""The image store over a real disk and the real unpacker: load, names, removal, crashes."""

import asyncio
import gzip
import os
import signal
from pathlib import Path

import pytest

from agent.images.layers import LayerLimits
from agent.images.settings import ImageSettings
from agent.images.store import ImageStore
from shoal.common.clock import SystemClock
from shoal.model.errors import Conflict, InvalidArgument, NotFound
from tests.unit.agent.images.crafting import (
    config_of,
    docker_archive,
    entry,
    folder,
    oci_archive,
    oci_image,
    pieces,
    sha,
    tar,
)

pytestmark = pytest.mark.root

BASE = tar(folder("etc"), entry("etc/a", b"lower"), entry("etc/b", b"lower"))
TOP = tar(folder("etc"), entry("etc/.wh.a"), entry("etc/c", b"upper"))


async def opened(root: Path) -> ImageStore:
    limits = LayerLimits(bytes=50_000_000, file=50_000_000)
    settings = ImageSettings(platform="linux/amd64", archive_bytes=60_000_000, layers=limits)
    store = ImageStore(root, SystemClock(), settings)
    await store.open()
    return store


@pytest.fixture
async def store(tmp_path: Path) -> ImageStore:
    return await opened(tmp_path / "images")


def files(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for top in ("blobs/sha256", "layers", "tmp")
        for path in (root / top).iterdir()
    }


async def test_load_of_an_old_archive(store: ImageStore, tmp_path: Path) -> None:
    archive = docker_archive(BASE, TOP, tags=("demo:1", "localhost:5000/demo:2"))
    loaded = await store.load(pieces(archive))
    assert [one.line for one in loaded] == [
        "Loaded image: demo:1",
        "Loaded image: localhost:5000/demo:2",
    ]
    image = store.find("demo:1")
    assert image.id == sha(config_of(BASE, TOP))
    assert image.repo_tags == ("demo:1", "localhost:5000/demo:2")
    assert image.config.cmd == ("sh",)
    assert image.size == 15
    assert store.find(image.id) == store.find(image.id[7:15]) == image
    assert [row.created_by for row in store.history("demo:1")] == ["step 1", "step 0"]
    lower = await store.layers(image.id)
    assert [path.name for path in lower] == [sha(TOP)[7:], sha(BASE)[7:]]
    again = await opened(tmp_path / "images")
    assert again.list() == (image,)


async def test_the_layers_make_a_working_overlay(store: ImageStore, tmp_path: Path) -> None:
    [loaded] = await store.load(pieces(docker_archive(BASE, TOP)))
    lower = ":".join(str(path) for path in await store.layers(loaded.image.id))
    merged = tmp_path / "merged"
    merged.mkdir()
    await run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", str(merged))
    try:
        assert {path.name for path in (merged / "etc").iterdir()} == {"b", "c"}
    finally:
        await run("umount", str(merged))


async def test_a_repeated_layer_is_one_lower_directory(store: ImageStore) -> None:
    [loaded] = await store.load(pieces(docker_archive(BASE, TOP, BASE)))
    names = [path.name for path in await store.layers(loaded.image.id)]
    assert names == [sha(BASE)[7:], sha(TOP)[7:]]


async def run(*command: str) -> None:
    child = await asyncio.create_subprocess_exec(*command)
    assert await child.wait() == 0


@pytest.mark.parametrize("compress", [False, True])
async def test_load_of_a_layout(store: ImageStore, compress: bool) -> None:
    manifest, blobs = oci_image(BASE, TOP, compress=compress)
    names = {"io.containerd.image.name": "docker.io/library/demo:oci"}
    archive = gzip.compress(oci_archive(manifest, blobs, names))
    [loaded] = await store.load(pieces(archive, 777))
    assert loaded.line == "Loaded image: demo:oci"
    assert loaded.image.manifest_digest == sha(manifest)
    assert store.blob_path(sha(manifest)).read_bytes() == manifest
    await store.load(pieces(docker_archive(BASE, TOP, tags=())))
    assert len(store.list()) == 1


async def test_an_archive_without_names(store: ImageStore) -> None:
    [loaded] = await store.load(pieces(docker_archive(BASE, tags=())))
    assert loaded.line == f"Loaded image ID: {loaded.image.id}"


async def test_a_tag_moves_to_the_later_image(store: ImageStore) -> None:
    [first] = await store.load(pieces(docker_archive(BASE)))
    lines = [one.line for one in await store.load(pieces(docker_archive(TOP)))]
    assert lines[0].startswith("The image demo:1 already exists, renaming the old one with ID")
    assert store.find(first.image.id).repo_tags == ()
    assert store.find("demo:1").id != first.image.id


async def test_the_same_image_twice_at_once(store: ImageStore) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(store.load(pieces(docker_archive(BASE, TOP))))
    assert len(store.list()) == 1


@pytest.mark.parametrize(
    ("archive", "sentence"),
    [
        (b"rubbish" * 200, "not a sound tar"),
        (tar(entry("x")), "holds no images"),
        (docker_archive(BASE)[:3000], ""),
        (gzip.compress(docker_archive(BASE))[:-20], "ends early"),
        (docker_archive(BASE, config=config_of(TOP)), "configuration says"),
        (docker_archive(BASE, config=config_of(TOP, BASE)), "length mismatch"),
        (docker_archive(BASE, config=b"{"), "invalid image configuration"),
        (docker_archive(BASE, tags=("Bad",)), "must be lowercase"),
        (docker_archive(tar(entry("../x", b""))), "climbs out"),
        (tar(entry("manifest.json", type=b"2", linkname="/etc/passwd")), "lacks"),
        (tar(entry("manifest.json", type=b"2", linkname="manifest.json")), "not a regular"),
    ],
)
async def test_broken_archives_leave_nothing(
    store: ImageStore, tmp_path: Path, archive: bytes, sentence: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await store.load(pieces(archive))
    assert sentence in str(refused.value)
    assert store.list() == ()
    assert files(tmp_path / "images") == set()


async def test_a_wrong_blob_digest_is_refused(store: ImageStore, tmp_path: Path) -> None:
    manifest, blobs = oci_image(BASE)
    wrong = {key: blob if b"rootfs" in blob else blob + b"x" for key, blob in blobs.items()}
    with pytest.raises(InvalidArgument, match="wrong digest"):
        await store.load(pieces(oci_archive(manifest, wrong, {})))
    assert files(tmp_path / "images") == set()


async def test_removal_takes_only_what_nobody_else_needs(
    store: ImageStore, tmp_path: Path
) -> None:
    await store.load(pieces(docker_archive(BASE, tags=("base:1",))))
    [both] = await store.load(pieces(docker_archive(BASE, TOP)))
    await store.tag("demo:1", "other")
    assert await store.remove("other") == (("Untagged", "other:latest"),)
    assert await store.remove("demo:1") == (
        ("Untagged", "demo:1"),
        ("Deleted", both.image.id),
        ("Deleted", sha(TOP)),
    )
    assert store.find("base:1").layers == (sha(BASE),)
    await store.remove("base:1")
    assert files(tmp_path / "images") == set()
    with pytest.raises(NotFound, match="No such image: base:latest"):
        store.find("base")


async def test_an_image_in_use_stays(store: ImageStore, tmp_path: Path) -> None:
    [loaded] = await store.load(pieces(docker_archive(BASE)))
    image = loaded.image
    running = True
    store.acquire(image.id, "c" * 64, lambda: running)
    with pytest.raises(Conflict) as refused:
        await store.remove("demo:1")
    assert str(refused.value) == (
        'conflict: unable to remove repository reference "demo:1" (must force) - container '
        f"{'c' * 12} is using its referenced image {image.short_id}"
    )
    with pytest.raises(Conflict, match="cannot be forced"):
        await store.remove(image.short_id, force=True)
    running = False
    assert ("Deleted", image.id) in await store.remove("demo:1", force=True)
    assert store.list() == ()
    assert len(await store.layers(image.id)) == 1
    await store.release("c" * 64)
    assert files(tmp_path / "images") == set()


async def test_a_killed_unpacker_leaves_only_tmp(store: ImageStore, tmp_path: Path) -> None:
    big = tar(*(entry(f"f{n}", os.urandom(20_000)) for n in range(1500)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(failing(store, big))
        pid = await unpacker(os.getpid())
        os.kill(pid, signal.SIGKILL)
    assert "ended with -9" in task.result()
    assert files(tmp_path / "images") == set()


async def failing(store: ImageStore, layer: bytes) -> str:
    with pytest.raises(Exception, match="could not be unpacked") as failed:
        await store.load(pieces(docker_archive(layer), 1 << 20))
    return str(failed.value)


async def unpacker(parent: int) -> int:
    """The pid of our unpacking child, as soon as there is one."""
    async with asyncio.timeout(20):
        while True:
            if found := unpackers(parent):
                return found[0]
            await asyncio.sleep(0.005)


def unpackers(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in commands.items() if b"unpack.py" in command]


async def test_a_crash_leaves_what_open_removes(store: ImageStore, tmp_path: Path) -> None:
    root = tmp_path / "images"
    [loaded] = await store.load(pieces(docker_archive(BASE)))
    before = files(root)
    (root / "tmp/left").mkdir()
    (root / "blobs/sha256" / ("a" * 64)).write_bytes(b"no record")
    (root / "layers" / ("b" * 64)).mkdir()
    again = await opened(root)
    assert files(root) == before
    assert again.find("demo:1") == loaded.image


async def test_a_missing_layer_is_unpacked_on_demand(store: ImageStore, tmp_path: Path) -> None:
    [loaded] = await store.load(pieces(docker_archive(BASE)))
    store._layers.delete(sha(BASE))
    again = await opened(tmp_path / "images")
    [path] = await again.layers(loaded.image.id)
    assert (path / "etc/a").read_bytes() == b"lower"


async def test_cancelled_loads_leave_nothing(store: ImageStore, tmp_path: Path) -> None:
    big = tar(*(entry(f"f{n}", os.urandom(20_000)) for n in range(1500)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.load(pieces(docker_archive(big), 1 << 20)))
        await unpacker(os.getpid())
        task.cancel()
    assert files(tmp_path / "images") == set()


async def test_what_is_saved_loads_as_the_same_images(
    store: ImageStore, tmp_path: Path
) -> None:
    await store.load(pieces(docker_archive(BASE, TOP, tags=("demo:1", "demo:2", "other:1"))))
    before = store.find("demo:1")
    async with store.saved(["demo", before.id]) as archive:
        whole = b"".join([data async for data in archive])
    again = await opened(tmp_path / "again")
    await again.load(pieces(whole))
    found = again.find("demo:2")
    assert (found.id, found.layers) == (before.id, before.layers)
    assert found.repo_tags == ("demo:1", "demo:2")
    async with store.saved(["other:1"]) as archive:
        names = await again.load(pieces(b"".join([data async for data in archive])))
    assert [one.line for one in names] == ["Loaded image: other:1"]
    for wrong in (["nope"], []):
        with pytest.raises(NotFound):
            async with store.saved(wrong):
                pass
