"""Files into and out of containers: `docker cp`, `export`, and the difference to the image.

A container that runs has its root mounted; that of any other is mounted for as long as the
copying takes, under the container's lock. What follows paths is a child, `copier`.
"""

import asyncio
import contextlib
import posixpath
import sys
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.engine import changes, own_files
from agent.engine.container import Container
from agent.engine.preparing import ROOT, Preparer
from agent.engine.seams import Images
from agent.runtime.oci import rootfs
from shoal.model import errors
from shoal.model.errors import ClusterError, Internal, NotFound

_PROGRAM = Path(__file__).with_name("copier.py")
_CHUNK = 1 << 18


class Stat(msgspec.Struct, frozen=True):
    """A path as `docker cp` wants to know it, with Go's mode bits."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str = msgspec.field(name="linkTarget", default="")


class _Outcome(msgspec.Struct):
    stat: Stat | None = None
    error: str = ""
    message: str = ""


class Copying:
    """Reads and writes the files of containers."""

    def __init__(self, preparer: Preparer, images: Images) -> None:
        self._preparer = preparer
        self._images = images

    async def look(self, container: Container, path: str) -> Stat:
        """What is at a path; a link is told of, not followed."""
        async with self._child(container, {"do": "look", **_named(path)}) as child:
            _, said = await child.communicate()
            outcome = _judge(said)
        if outcome.stat is None:
            raise Internal("the copier said nothing of the path")
        return outcome.stat

    @asynccontextmanager
    async def pack(
        self, container: Container, path: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """An archive of what is at a path, named as the path ends.

        The iterator raises where it cannot be read to its end.
        """
        order = {"do": "pack", **_named(path)}
        async with self._child(container, order) as child:
            yield _output(child)

    @asynccontextmanager
    async def export(self, container: Container) -> AsyncIterator[AsyncIterator[bytes]]:
        """An archive of the whole root, without volumes."""
        order = {"do": "pack", "path": "/", "name": "", "mounts": []}
        async with self._child(container, order) as child:
            yield _output(child)

    async def unpack(
        self,
        container: Container,
        path: str,
        archive: AsyncIterable[bytes],
        *,
        no_overwrite: bool,
        own: bool,
    ) -> None:
        """Put an archive under a directory.

        Args:
            container: whose files.
            path: a directory that is there.
            archive: tar, plain or compressed.
            no_overwrite: refuse to put a directory in place of a file, or the reverse.
            own: what is written belongs to the container's user.
        """
        order: dict[str, Any] = {"do": "unpack", "path": _absolute(path), "owner": None}
        order["no_overwrite"] = no_overwrite
        async with self._child(container, order, owned=own) as child:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(_feed(child, archive))
                said = await _errors(child)
                await child.wait()
                feeding.cancel()
            _judge(said)

    async def changes(self, container: Container) -> list[tuple[int, str]]:
        """Kind (0 modified, 1 added, 2 deleted) and path of what differs from the image."""
        layers = await self._images.layers(container.record.image_id)
        upper = container.directory / ROOT / rootfs.UPPER
        places = [mount.destination for mount in container.record.mounts]
        places += [mount.destination for mount in container.record.tmpfs]
        return await asyncio.to_thread(changes.find, upper, layers, places)

    @asynccontextmanager
    async def _child(
        self, container: Container, order: Mapping[str, Any], *, owned: bool = False
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        async with self._mounted(container) as root:
            record = container.record
            full = {
                "root": str(root),
                "container": record.name,
                "read_only": record.host_config.readonly_rootfs,
                "mounts": _mounts(container),
                **order,
            }
            if owned:
                user = await asyncio.to_thread(
                    rootfs.resolve_user, root, record.config.user, ()
                )
                full["owner"] = (user.uid, user.gid)
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-X", "utf8", str(_PROGRAM)),
                msgspec.json.encode(full).decode(),
                stdin=asyncio.subprocess.PIPE
                if order["do"] == "unpack"
                else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
            try:
                yield child
            finally:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                    await child.wait()

    @asynccontextmanager
    async def _mounted(self, container: Container) -> AsyncIterator[Path]:
        root = container.directory / ROOT / rootfs.MERGED
        if container.state.running:
            yield root
            return
        async with container.lock:
            if container.removed:
                raise NotFound(f"No such container: {container.id}")
            if container.state.running:  # it was started while this waited
                yield root
                return
            await self._preparer.mount(container)
            try:
                yield root
            finally:
                await self._preparer.unmount(container)


def _named(path: str) -> dict[str, str]:
    """The path to look at and the name its archive begins with, as Docker has them."""
    full = _absolute(path)
    trailing = full if full == "/" else full.rstrip("/") or "/"
    return {"path": full, "name": posixpath.basename(trailing) or "/"}


def _absolute(path: str) -> str:
    """From the root; `/` or `/.` at the end stay, for they ask for what a link leads to."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        return "/." if path.endswith("/.") or path == "." else "/"
    if path.endswith("/."):
        return clean + "/."
    return clean + "/" if path.endswith("/") else clean


def _mounts(container: Container) -> list[dict[str, Any]]:
    directory = own_files.directory(container)
    own = [(directory / name, f"/etc/{name}") for name in own_files.NAMES]
    found: list[dict[str, Any]] = [
        {"source": str(source), "destination": destination, "rw": True}
        for source, destination in own
        if source.exists()
    ]
    found += [
        {"source": mount.source, "destination": mount.destination, "rw": mount.rw}
        for mount in sorted(container.record.mounts, key=lambda each: each.destination)
        if Path(mount.source).exists()
    ]
    return found


async def _output(child: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    assert child.stdout is not None  # noqa: S101 - it was asked for
    while data := await child.stdout.read(_CHUNK):
        yield data
    _judge(await _errors(child))


async def _feed(child: asyncio.subprocess.Process, archive: AsyncIterable[bytes]) -> None:
    assert child.stdin is not None  # noqa: S101 - it was asked for
    try:
        async for data in archive:
            child.stdin.write(data)
            await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it has had enough, or the client has left: it says what that means
    finally:
        child.stdin.close()


async def _errors(child: asyncio.subprocess.Process) -> bytes:
    assert child.stderr is not None  # noqa: S101 - it was asked for
    return await child.stderr.read()


def _judge(said: bytes) -> _Outcome:
    last = said.decode(errors="replace").strip().rpartition("\n")[2]
    try:
        outcome = msgspec.json.decode(last, type=_Outcome)
    except msgspec.DecodeError as error:
        raise Internal(f"the copier ended without a word: {last}") from error
    if outcome.error:
        kind = getattr(errors, outcome.error, Internal)
        failure: ClusterError = kind(outcome.message)
        raise failure
    return outcome
