"""Layers unpacked once per diff id: `layers/<hex>/`, ready to be an overlay's lower directory.

Runs `agent.images.unpack` in a child process into `tmp/`, compares both digests and renames the
directory into place; so a layer that exists is whole and true. Beside it, `<hex>.json` keeps
its size. Names and references are the store's business, mounting is the runtime's.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path

import msgspec

from agent.images.blobs import BlobStore, sync_directory, write_synced
from shoal.model.errors import Internal, InvalidArgument, ResourceExhausted

_PROGRAM = Path(__file__).with_name("unpack.py")
_GIB = 1 << 30


class LayerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer may cost. Sizes in bytes, `cpu` in seconds, `memory` of the child."""

    bytes: int = 64 * _GIB
    file: int = 32 * _GIB
    members: int = 2_000_000
    path: int = 4000
    memory: int = _GIB // 2
    cpu: int = 3600
    devices: bool = False


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """What the child found: the size of all files, how many members, the two digests."""

    size: int
    members: int
    blob: str
    diff_id: str


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    ok: Unpacked | None = None
    refused: str = ""
    full: str = ""


class LayerStore:
    """The unpacked layers under one directory; at most `parallel` are unpacked at once."""

    def __init__(
        self, root: Path, tmp: Path, blobs: BlobStore, limits: LayerLimits, parallel: int = 2
    ) -> None:
        self._root = root
        self._tmp = tmp
        self._blobs = blobs
        self._limits = msgspec.json.encode(limits).decode()
        self._slots = asyncio.Semaphore(parallel)
        self._busy = weakref.WeakValueDictionary[str, asyncio.Lock]()

    def prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, diff_id: str) -> Path:
        """Where the layer is or would be."""
        return self._root / diff_id.removeprefix("sha256:")

    def has(self, diff_id: str) -> bool:
        return self.path(diff_id).is_dir()

    def size(self, diff_id: str) -> int:
        """Bytes of the layer's files, 0 if it is not unpacked."""
        try:
            record = self._record(diff_id).read_bytes()
        except FileNotFoundError:
            return 0
        return msgspec.json.decode(record, type=Unpacked).size

    def diff_ids(self) -> set[str]:
        names = {Path(entry.name).stem for entry in os.scandir(self._root)}
        return {f"sha256:{name}" for name in names}

    def delete(self, diff_id: str) -> None:
        """Take the layer away; no overlay may be mounted over it any more."""
        path = self.path(diff_id)
        if path.is_dir():
            grave = Path(tempfile.mkdtemp(dir=self._tmp)) / "layer"
            path.rename(grave)  # at once and whole: half a layer must never have its name
            remove_tree(grave.parent)
        self._record(diff_id).unlink(missing_ok=True)

    async def ensure(self, diff_id: str, blob: str) -> None:
        """Have the layer unpacked. Several callers share the work, also when one gives up."""
        if self.has(diff_id):
            return
        lock = self._busy.setdefault(diff_id, asyncio.Lock())
        # held while unpacking: the others have nothing to do but wait for the same layer
        async with lock, self._slots:
            if not self.has(diff_id):
                await self._unpack(diff_id, blob)

    async def _unpack(self, diff_id: str, blob: str) -> None:
        work = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._tmp))
        try:
            target = work / "layer"
            target.mkdir(mode=0o755)
            found = await self._run(self._blobs.path(blob), target)
            if found.blob != blob:
                raise InvalidArgument(f"layer {blob} is damaged: its digest is {found.blob}")
            if found.diff_id != diff_id:
                raise InvalidArgument(
                    f"layer {blob} has diff id {found.diff_id}, "
                    f"but the image's configuration says {diff_id}"
                )
            await asyncio.to_thread(self._publish, target, diff_id, found)
        finally:
            await asyncio.to_thread(remove_tree, work)

    def _publish(self, target: Path, diff_id: str, found: Unpacked) -> None:
        write_synced(self._record(diff_id), msgspec.json.encode(found))
        target.rename(self.path(diff_id))
        sync_directory(self._root)

    async def _run(self, blob: Path, target: Path) -> Unpacked:
        """The child, from start to end; it never outlives a caller that gives up."""
        with blob.open("rb") as content:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-X", "utf8", str(_PROGRAM)),
                *(str(target), self._limits),
                stdin=content,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        try:
            stdout, stderr = await child.communicate()
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        return _judge(blob.name, child.returncode, stdout, stderr)

    def _record(self, diff_id: str) -> Path:
        return self._root / f"{diff_id.removeprefix('sha256:')}.json"


def _judge(name: str, code: int | None, stdout: bytes, stderr: bytes) -> Unpacked:
    layer = f"layer sha256:{name[:12]}"
    if code != 0:
        last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Internal(f"{layer} could not be unpacked: the unpacker ended with {code}: {last}")
    outcome = msgspec.json.decode(stdout, type=_Outcome)
    if outcome.full:
        raise ResourceExhausted(f"{layer} could not be unpacked: {outcome.full}")
    if outcome.ok is None:
        raise InvalidArgument(f"{layer} is refused: {outcome.refused}")
    return outcome.ok


def remove_tree(path: Path) -> None:
    """Remove a directory of this store with all that is in it, links not followed."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
