"""Blobs by digest on disk: `blobs/sha256/<hex>`, each complete and true to its name.

A blob appears by rename from the same file system, after its digest was computed from what was
written and its content is on disk. Everything here blocks: the store calls it in threads.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import IO

from shoal.model.errors import InvalidArgument, NotFound

_CHUNK = 1 << 20


class BlobStore:
    """The blobs under one directory. For several threads: the same blob twice is one file."""

    def __init__(self, root: Path) -> None:
        self._root = root / "sha256"

    def prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. The digest's form must have been checked."""
        return self._root / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def read(self, digest: str) -> bytes:
        """A small blob's content; documents only, their size was limited on the way in."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} is not in the image store") from error

    def adopt(self, file: Path, digest: str) -> None:
        """Take over a finished file whose content must have the digest."""
        with file.open("rb") as content:
            found = digest_of_file(content)
            if found != digest:
                raise InvalidArgument(f"wrong digest: {digest} was announced, {found} came")
            os.fsync(content.fileno())
        self.publish(file, digest)

    def publish(self, file: Path, digest: str) -> None:
        """Give a file, whose digest was computed while it was written and synced, its name."""
        file.chmod(0o600)
        file.rename(self.path(digest))
        sync_directory(self._root)

    def write(self, content: bytes, staging: Path) -> str:
        """Store a small document by way of the staging directory; its digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if not self.has(digest):
            file = staging / digest.removeprefix("sha256:")
            write_synced(file, content)
            self.publish(file, digest)
        return digest

    def delete(self, digest: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).unlink()

    def digests(self) -> set[str]:
        return {f"sha256:{entry.name}" for entry in os.scandir(self._root)}


def digest_of_file(content: IO[bytes]) -> str:
    """The sha256 digest of all that is left in an open file."""
    state = hashlib.sha256()
    while chunk := content.read(_CHUNK):
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def write_synced(file: Path, content: bytes) -> None:
    """Write a file, readable by nobody else, and wait for the disk."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())


def replace_synced(file: Path, content: bytes) -> None:
    """Replace a file so that a reader, or a crash, finds the old content or the new."""
    fresh = file.with_name(file.name + ".new")
    write_synced(fresh, content)
    fresh.rename(file)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """Wait until a rename or a new entry of the directory is on disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
