"""A program that unpacks one layer into overlay form, run once per layer in a child process.

It trusts nothing in the archive: it confines itself to the target directory (chroot, own mount
and network namespaces, few capabilities, resource limits) before it reads a header, refuses
what reaches out or grows without end, and reports both digests for its caller to be compared
with what the image says. Whiteouts become character devices 0/0, opaque directories get
overlay's attribute. It publishes nothing: `agent.images.layers` does, after checking.

Only the standard library, because it must start fast and nothing can be imported after chroot:

    python -I -S -X utf8 unpack.py TARGET LIMITS_AS_JSON < blob

One JSON object on stdout: `{"ok": {...}}`, `{"refused": sentence}` or `{"full": sentence}`.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import resource
import signal
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Final, NoReturn, cast

_CHUNK: Final = 1 << 18
_COPY: Final = 1 << 20
_MAX_DEPTH: Final = 200
_MAX_HEADER: Final = 1 << 20
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_AUFS: Final = ".wh..wh."
_XATTR: Final = "SCHILY.xattr."
_OPAQUE_XATTR: Final = "trusted.overlay.opaque"
_KEPT_XATTRS: Final = ("user.", "security.capability")
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWIPC: Final = 0x08000000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_CAPABILITY_VERSION_3: Final = 0x20080522
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN (trusted attributes), MKNOD, SETFCAP
_CAPABILITIES: Final = sum(1 << bit for bit in (0, 1, 3, 4, 21, 27, 31))


class Refused(Exception):
    """The layer is hostile or broken; the sentence says how."""


class Layer:
    """The byte stream of a layer: decompressed, counted, and both digests kept.

    `read` is what tarfile calls. `finish` reads what tarfile left, because a digest of a prefix
    would let a layer through whose rest nobody has looked at.
    """

    def __init__(self, source: IO[bytes], max_bytes: int) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._blob = hashlib.sha256()
        self._diff = hashlib.sha256()
        self._buffer = memoryview(b"")
        self._total = 0
        self._first = self._next_chunk()
        self._chunks = self._gunzip() if self._first.startswith(_GZIP) else self._plain()
        if self._first.startswith(_ZSTD):
            raise Refused("it is compressed with zstd, which is not supported: use gzip")

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`, or nothing at the end."""
        while not self._buffer:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._total += len(chunk)
            if self._total > self._max_bytes:
                raise Refused(f"it unpacks to more than {self._max_bytes} bytes")
            self._diff.update(chunk)
            self._buffer = memoryview(chunk)
        taken = bytes(self._buffer[:size])
        self._buffer = self._buffer[size:]
        return taken

    def finish(self) -> None:
        """Read to the end; only zeros may follow the end of the archive."""
        while chunk := self.read(_CHUNK):
            if chunk.count(0) != len(chunk):
                raise Refused("there is data after the end of the archive")

    def digests(self) -> dict[str, str]:
        return {
            "blob": "sha256:" + self._blob.hexdigest(),
            "diff_id": "sha256:" + self._diff.hexdigest(),
        }

    def _next_chunk(self) -> bytes:
        chunk = self._source.read(_CHUNK)
        self._blob.update(chunk)
        return chunk

    def _plain(self) -> Iterator[bytes]:
        chunk = self._first
        while chunk:
            yield chunk
            chunk = self._next_chunk()

    def _gunzip(self) -> Iterator[bytes]:
        """All members of the gzip stream, in bounded pieces: a bomb costs nothing."""
        chunk = self._first
        while chunk:
            member: Any = zlib.decompressobj(wbits=31)
            while not member.eof:
                if not chunk:
                    raise Refused("its gzip stream ends early")
                yield from _inflate(member, chunk)
                chunk = member.unused_data if member.eof else self._next_chunk()
            chunk = chunk or self._next_chunk()


def _inflate(member: Any, chunk: bytes) -> Iterator[bytes]:
    while chunk and not member.eof:
        try:
            plain = member.decompress(chunk, _COPY)
        except zlib.error as error:
            raise Refused(f"its gzip stream is broken: {error}") from error
        if plain:
            yield plain
        chunk = member.unconsumed_tail


class Member(tarfile.TarInfo):
    """A header that refuses where tarfile would silently take a broken one for the end."""

    @classmethod
    def fromtarfile(  # type: ignore[explicit-override]  # `override` is no part of 3.11's typing
        cls, tarfile_: tarfile.TarFile
    ) -> "Member":
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise Refused(f"its archive has a broken header: {error}") from error
        except (ValueError, LookupError, OverflowError) as error:
            raise Refused(f"its archive has an unreadable header: {error}") from error

    def _proc_pax(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        return self._small()._extended("_proc_pax", tarfile_)

    def _proc_gnulong(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        return self._small()._extended("_proc_gnulong", tarfile_)

    def _extended(self, method: str, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        return cast("tarfile.TarInfo", getattr(super(), method)(tarfile_))

    def _small(self) -> "Member":
        """Extended headers are read into memory whole, at the size that they claim."""
        if not 0 <= self.size <= _MAX_HEADER:
            raise Refused(f"its archive has a header of {self.size} bytes")
        return self


class Unpacker:
    """Puts members under the present root directory; one method for each kind of member."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._limits = limits
        self.size = 0
        self.members = 0
        self._times: dict[str, float] = {}

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Place one member, or refuse the whole layer."""
        self.members += 1
        if self.members > self._limits["members"]:
            raise Refused(f"it has more than {self._limits['members']} members")
        parts = self._parts(member.name)
        if not parts:
            if member.isdir():
                self._attributes(".", member)
            return
        directory, name = self._parent(parts), parts[-1]
        path = f"{directory}/{name}"
        if name.startswith(_WHITEOUT):
            self._whiteout(directory, name)
        elif member.isdir():
            self._directory(path, member)
        else:
            self._clear(path)
            self._other(archive, member, path)

    def finish(self) -> None:
        """Directory times come last, since every member changed its parent's."""
        for path, when in reversed(self._times.items()):
            _set_time(path, when)

    def _parts(self, name: str) -> list[str]:
        if len(name.encode("utf-8", "surrogateescape")) > self._limits["path"]:
            raise Refused(f"a path is longer than {self._limits['path']} bytes")
        if "\0" in name:
            raise Refused(f"a path holds a zero byte: {name!r}")
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise Refused(f"a path climbs out of it: {name!r}")
        if len(parts) > _MAX_DEPTH:
            raise Refused(f"a path is deeper than {_MAX_DEPTH} directories")
        return parts

    def _parent(self, parts: list[str]) -> str:
        """The member's directory, made if missing; never reached through a link."""
        path = "."
        for part in parts[:-1]:
            path = f"{path}/{part}"
            if path in self._times:
                continue  # a directory of ours; whatever replaces one drops it from here
            mode = _mode(path)
            if mode is not None and stat.S_ISLNK(mode):
                raise Refused(f"a member is written through the link {path[1:]!r}")
            if mode is None or not stat.S_ISDIR(mode):
                self._clear(path)
                os.mkdir(path, 0o755)
        return path

    def _clear(self, path: str) -> None:
        """Later members win, as in every unpacker."""
        mode = _mode(path)
        if mode is None:
            return
        if stat.S_ISDIR(mode):
            _remove_tree(path)
            gone = [known for known in self._times if f"{known}/".startswith(f"{path}/")]
            for known in gone:
                del self._times[known]
        else:
            os.unlink(path)

    def _whiteout(self, directory: str, name: str) -> None:
        if name == _OPAQUE:
            os.setxattr(directory, _OPAQUE_XATTR, b"y")
            return
        if name.startswith(_AUFS):
            return  # bookkeeping of another file system that some old layers carry along
        hidden = name[len(_WHITEOUT) :]
        if hidden in {"", ".", ".."}:
            raise Refused(f"a whiteout names nothing: {name!r}")
        path = f"{directory}/{hidden}"
        mode = _mode(path)
        if mode is None:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        elif stat.S_ISDIR(mode):
            os.setxattr(path, _OPAQUE_XATTR, b"y")

    def _directory(self, path: str, member: tarfile.TarInfo) -> None:
        mode = _mode(path)
        if mode is None or not stat.S_ISDIR(mode):
            hides = mode is not None and stat.S_ISCHR(mode)
            self._clear(path)
            os.mkdir(path, 0o700)
            if hides:  # a whiteout came first: the directory replaces what lies below
                os.setxattr(path, _OPAQUE_XATTR, b"y")
        self._attributes(path, member)

    def _other(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.isreg():
            self._file(archive, member, path)
        elif member.islnk():
            self._hardlink(member, path)
            return
        elif member.issym():
            self._symlink(member, path)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        elif member.ischr() or member.isblk():
            self._device(member, path)
        else:
            raise Refused(f"{member.name!r} is of an unknown kind ({member.type!r})")
        self._attributes(path, member)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        self.size += member.size
        if member.size < 0 or member.size > self._limits["file"]:
            raise Refused(f"{member.name!r} is larger than {self._limits['file']} bytes")
        if self.size > self._limits["bytes"]:
            raise Refused(f"it unpacks to more than {self._limits['bytes']} bytes")
        source = archive.extractfile(member)
        if source is None:
            raise Refused(f"{member.name!r} has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as target:
            left = member.size
            while left and (chunk := source.read(min(left, _COPY))):
                target.write(chunk)
                left -= len(chunk)
        if left:
            raise Refused(f"its archive ends within {member.name!r}")

    def _hardlink(self, member: tarfile.TarInfo, path: str) -> None:
        parts = self._parts(member.linkname)
        for depth in range(1, len(parts)):
            mode = _mode("./" + "/".join(parts[:depth]))
            if mode is not None and stat.S_ISLNK(mode):
                raise Refused(f"the hard link {member.name!r} goes through a link")
        target = "./" + "/".join(parts)
        mode = _mode(target)
        if mode is None or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise Refused(f"the hard link {member.name!r} leads to no file of this layer")
        os.link(target, path, follow_symlinks=False)

    def _symlink(self, member: tarfile.TarInfo, path: str) -> None:
        """Absolute targets mean the container's root; relative ones must not climb above it."""
        target = member.linkname
        if not target.startswith("/"):
            depth = path.count("/") - 1
            for part in target.split("/"):
                depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
                if depth < 0:
                    raise Refused(f"the link {member.name!r} leads out of it: {target!r}")
        os.symlink(target, path)

    def _device(self, member: tarfile.TarInfo, path: str) -> None:
        if not self._limits["devices"] or (member.devmajor, member.devminor) == (0, 0):
            raise Refused(f"{member.name!r} is a device node")
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))

    def _attributes(self, path: str, member: tarfile.TarInfo) -> None:
        """Owner before mode and capabilities: chown clears both."""
        os.lchown(path, member.uid, member.gid)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            if key.startswith(_XATTR):
                self._xattr(path, member, key[len(_XATTR) :], value)
        if member.isdir():
            self._times[path] = member.mtime
        else:
            _set_time(path, member.mtime)

    def _xattr(self, path: str, member: tarfile.TarInfo, name: str, value: str) -> None:
        if name.startswith(("trusted.", "user.overlay.")):
            raise Refused(f"{member.name!r} sets the attribute {name!r}")
        if not name.startswith(_KEPT_XATTRS):
            return  # labels and access lists of the machine that built it mean nothing here
        raw = value.encode("utf-8", "surrogateescape")
        if name.startswith("user."):
            with contextlib.suppress(OSError):  # not every file system or kind of file has them
                os.setxattr(path, name, raw, follow_symlinks=False)
        else:
            os.setxattr(path, name, raw, follow_symlinks=False)


def _mode(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None


def _set_time(path: str, when: float) -> None:
    os.utime(path, (when, when), follow_symlinks=False)


def _remove_tree(path: str) -> None:
    for directory, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(f"{directory}/{name}")
        for name in folders:
            inner = f"{directory}/{name}"
            if os.path.islink(inner):
                os.unlink(inner)
            else:
                os.rmdir(inner)
    os.rmdir(path)


def _libc_call(libc: ctypes.CDLL, name: str, *arguments: Any) -> None:
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def confine(target: str, limits: dict[str, Any]) -> None:
    """Close this process in; from here on, the target directory is all there is."""
    libc = ctypes.CDLL(None, use_errno=True)
    _libc_call(libc, "prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file"], limits["file"]))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.umask(0)
    _libc_call(libc, "unshare", _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC)
    _libc_call(libc, "mount", None, b"/", None, _MS_REC_PRIVATE, None)
    os.chroot(target)
    os.chdir("/")
    _libc_call(libc, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = _CAPABILITIES & 0xFFFFFFFF, _CAPABILITIES >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _libc_call(libc, "capset", header, sets)


def unpack(source: IO[bytes], limits: dict[str, Any]) -> dict[str, Any]:
    """Unpack the stream under the present directory; the caller has confined the process."""
    stream = Layer(source, limits["bytes"])
    unpacker = Unpacker(limits)
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", stream),
            mode="r|",
            bufsize=_CHUNK,
            tarinfo=Member,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            for member in archive:
                unpacker.add(archive, member)
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
            _rest_is_zeros(archive)
    except tarfile.TarError as error:
        raise Refused(f"it is not a sound tar archive: {error}") from error
    stream.finish()
    unpacker.finish()
    _sync()
    return {"size": unpacker.size, "members": unpacker.members, **stream.digests()}


def _rest_is_zeros(archive: tarfile.TarFile) -> None:
    """Look at what tarfile had already buffered when it met the end."""
    rest = cast("IO[bytes]", archive.fileobj)
    while chunk := rest.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            raise Refused("there is data after the end of the archive")


def _sync() -> None:
    """Have the content on disk before the directory gets the name that vouches for it."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    _libc_call(ctypes.CDLL(None, use_errno=True), "syncfs", root)
    os.close(root)


def _explain(error: OSError) -> dict[str, str]:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return {"full": f"no room left: {error.strerror}"}
    if error.errno == errno.EFBIG:
        return {"refused": "a file grows beyond the limit"}
    return {"refused": f"a member cannot be placed: {error}"}


def main() -> NoReturn:
    """Confine, unpack, say one JSON object, leave without running what cannot be reached."""
    target, limits = sys.argv[1], json.loads(sys.argv[2])
    "".encode("idna")  # loads the codec machinery before chroot puts it out of reach
    confine(target, limits)
    try:
        outcome: dict[str, Any] = {"ok": unpack(sys.stdin.buffer, limits)}
    except Refused as refused:
        outcome = {"refused": str(refused)}
    except OSError as error:
        outcome = _explain(error)
    except (ValueError, OverflowError) as error:
        outcome = {"refused": f"a member has an impossible attribute: {error}"}
    except (MemoryError, RecursionError):
        outcome = {"refused": "its headers need more memory than any sound archive does"}
    sys.stdout.write(json.dumps(outcome, ensure_ascii=True) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
