"""A program that looks into a container's files, run once per request in a child process.

It confines itself to the container's root (own mount namespace, chroot) before it follows any
path, with volumes and binds where the container has them, so no link leads out. Only the
standard library, and no name service: nothing of the container's may be loaded here.

    python -I -S -X utf8 copier.py ORDER_AS_JSON < archive > archive

The last line on stderr is one JSON object: `{}`, or `{"stat": ...}`, or the class of an error
of ours and its sentence as `{"error": ..., "message": ...}`.
"""

import bz2  # noqa: F401 - tarfile loads it when it meets such an archive: too late after chroot
import ctypes
import errno
import json
import lzma  # noqa: F401
import os
import posixpath
import shutil
import signal
import stat
import sys
import tarfile
import zlib
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

_CLONE_NEWNS: Final = 0x00020000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_MS_REMOUNT_RO: Final = 0x20 | 0x1000 | 0x1
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_AT_FDCWD: Final = -100
_OPEN_TREE_CLONE: Final = 0x1 | 0o2000000 | 0x8000  # cloexec, recursive
_MOVE_MOUNT_EMPTY_PATH: Final = 0x4
_GO_KINDS: Final = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS: Final = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class Failure(Exception):
    """What the caller is answered: the class of the error, and the sentence."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def confine(root: str, mounts: list[dict[str, Any]], *, read_only: bool) -> None:
    """Enter the container's root, with its mounts, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _call(libc.unshare(_CLONE_NEWNS))
    _call(libc.mount(None, b"/", None, _MS_REC_PRIVATE, None))
    trees = [
        _call(libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(m["source"]), _OPEN_TREE_CLONE))
        for m in mounts
    ]
    are_files = [not os.path.isdir(mount["source"]) for mount in mounts]
    os.chroot(root)
    os.chdir("/")
    for mount, is_file in zip(mounts, are_files, strict=True):
        _make_place(mount["destination"], is_file=is_file)
    if read_only:
        _call(libc.mount(None, b"/", None, _MS_REMOUNT_RO, None))
    for mount, tree in zip(mounts, trees, strict=True):
        place = os.fsencode(mount["destination"])
        empty = ctypes.c_char_p(b"")
        flags = _MOVE_MOUNT_EMPTY_PATH
        if libc.syscall(_MOVE_MOUNT, tree, empty, _AT_FDCWD, place, flags) < 0:
            continue  # what is there is not what can be mounted over: the start will say so
        if not mount["rw"]:
            _call(libc.mount(None, place, None, _MS_REMOUNT_RO, None))
    _call(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _make_place(path: str, *, is_file: bool) -> None:
    """Have a mount's place exist in the root, as the container's first start would make it."""
    if os.path.exists(path):
        return
    try:
        os.makedirs(posixpath.dirname(path) if is_file else path, exist_ok=True)
        if is_file:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    except (FileExistsError, NotADirectoryError):
        return  # the image has something else on the way: the start will say so


def _call(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def look(order: dict[str, Any]) -> dict[str, Any]:
    """The `X-Docker-Container-Path-Stat` of a path: Go's mode bits, links not followed."""
    path = order["path"]
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode) & 0o777 | _GO_KINDS.get(stat.S_IFMT(found.st_mode), 0)
    for bit, go in _GO_BITS:
        mode |= go if found.st_mode & bit else 0
    when = datetime.fromtimestamp(found.st_mtime_ns // 1_000_000_000, UTC)
    target = posixpath.realpath(path) if stat.S_ISLNK(found.st_mode) else ""
    return {
        "stat": {
            "name": order["name"],
            "size": found.st_size,
            "mode": mode,
            "mtime": f"{when:%Y-%m-%dT%H:%M:%S}.{found.st_mtime_ns % 1_000_000_000:09d}Z",
            "linkTarget": target,
        }
    }


def pack(order: dict[str, Any]) -> dict[str, Any]:
    """Write an archive of the path, with all below it, to stdout; no name: only that."""
    os.lstat(order["path"])
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", bufsize=1 << 18) as archive:
        if order["name"] == "/":  # tarfile takes the slash away, which clients look for
            archive.add(order["path"], "/", filter=_rooted)
        elif order["name"]:
            archive.add(order["path"], order["name"], filter=_known)
        else:
            for name in sorted(os.listdir(order["path"])):
                archive.add(posixpath.join(order["path"], name), name, filter=_known)
    sys.stdout.buffer.flush()
    return {}


def _known(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uname = member.gname = ""
    return member


def _rooted(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.name = "/" + member.name.lstrip("/")
    return _known(member)


def unpack(order: dict[str, Any]) -> dict[str, Any]:
    """Put the archive on stdin under a directory."""
    if not stat.S_ISDIR(os.stat(order["path"]).st_mode):
        raise Failure("InvalidArgument", "extraction point is not a directory")
    os.chdir(order["path"])
    directories: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*", bufsize=1 << 18) as archive:
            for member in archive:
                _place(archive, member, order)
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
                if member.isdir():
                    directories.append(member)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise Failure(
            "InvalidArgument", f"the archive is not a sound tar file: {error}"
        ) from error
    for member in reversed(directories):
        os.utime(member.name, (member.mtime, member.mtime))
    return {}


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, order: dict[str, Any]) -> None:
    name = posixpath.normpath(member.name.lstrip("/"))
    if name == ".." or name.startswith("../"):
        raise Failure("InvalidArgument", f"{member.name!r} in the archive leads out of it")
    member.name = name
    if member.islnk():
        member.linkname = posixpath.normpath(member.linkname.lstrip("/"))
    if order.get("owner") is not None:
        member.uid, member.gid = order["owner"]
    if name != ".":
        _clear(name, member, keep_directories=order["no_overwrite"])
    archive.extract(member, ".", numeric_owner=True, filter="fully_trusted")


def _clear(name: str, member: tarfile.TarInfo, *, keep_directories: bool) -> None:
    """Make room: only a directory takes the place of a directory without its removal."""
    try:
        present = os.lstat(name)
    except FileNotFoundError:
        return
    is_directory = stat.S_ISDIR(present.st_mode)
    if is_directory and member.isdir():
        return
    if keep_directories and is_directory:
        raise Failure(
            "InvalidArgument", f"cannot overwrite directory {name!r} with non-directory"
        )
    if keep_directories and member.isdir() and not is_directory:
        raise Failure(
            "InvalidArgument", f"cannot overwrite non-directory {name!r} with directory"
        )
    if is_directory:
        shutil.rmtree(name)
    else:
        os.unlink(name)


_OPERATIONS = {"look": look, "pack": pack, "unpack": unpack}


def _explained(error: OSError, order: dict[str, Any]) -> Failure:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return Failure(
            "NotFound",
            f"Could not find the file {order['path']} in container {order['container']}",
        )
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
        return Failure("InvalidArgument", f"{order['path']} is no path: {error.strerror}")
    if error.errno == errno.EROFS:
        return Failure("InvalidArgument", "container rootfs is marked read-only")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("ResourceExhausted", f"no space left on this host: {error}")
    return Failure("Internal", f"{order['path']} cannot be copied: {error}")


def main() -> NoReturn:
    """Confine, work, say one JSON object, leave without running what cannot be reached."""
    order = json.loads(sys.argv[1])
    tarfile.pwd = tarfile.grp = None  # type: ignore[attr-defined]  # no name service in there
    "".encode("idna")  # loads the codec machinery before chroot puts it out of reach
    try:
        confine(order["root"], order["mounts"], read_only=order["read_only"])
        outcome = _OPERATIONS[order["do"]](order)
    except Failure as failure:
        outcome = {"error": failure.kind, "message": str(failure)}
    except OSError as error:
        explained = _explained(error, order)
        outcome = {"error": explained.kind, "message": str(explained)}
    sys.stderr.write(json.dumps(outcome, ensure_ascii=True) + "\n")
    sys.stderr.flush()
    os._exit(0 if "error" not in outcome else 3)


if __name__ == "__main__":
    main()
