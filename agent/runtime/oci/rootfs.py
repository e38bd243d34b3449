"""A container's root file system: the overlay mount, and looking into it without being led out.

Layers belong to the image store, which must keep them as long as the mount lives: unmount
first.
Paths inside an image are its author's, so every look inside goes through the kernel's
RESOLVE_IN_ROOT: no symlink leads out of it. Called by the engine, in a thread.
"""

import contextlib
import ctypes
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from agent.runtime.oci.request import ResolvedDevice, User
from agent.runtime.oci.users import find_user
from shoal.model.errors import InvalidArgument, NotFound, ResourceExhausted

UPPER = "upper"
WORK = "work"
MERGED = "merged"
_LINKS = "lower"  # short names for layers, so that many fit into one mount call

_MNT_DETACH = 2
_PAGE = 4096  # what mount(2) takes as options, with its final 0
_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_RESOLVE_NO_MAGICLINKS = 0x02
_READ_LIMIT = 8 << 20
_NOT_SHARED = {"pts", "shm", "fd", "mqueue"}  # of /dev: a container has its own
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def mount(directory: Path, layers: Sequence[Path]) -> Path:
    """Mount the layers (topmost first) with a writable one in `directory`; the merged path.

    What was written by an earlier run of the container is still there. Idempotent.
    """
    merged = directory / MERGED
    for name in (UPPER, WORK, MERGED):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / UPPER).chmod(0o755)
    if os.path.ismount(merged):
        return merged
    if not layers:
        raise InvalidArgument("an image without layers has no root file system to mount")
    lower = ":".join(_short(directory / _LINKS, layers))
    options = f"lowerdir={lower},upperdir={directory / UPPER},workdir={directory / WORK}"
    if len(os.fsencode(options)) >= _PAGE:
        raise ResourceExhausted(
            f"{len(layers)} layers in {directory} pass the {_PAGE} bytes that a mount takes"
        )
    done = _libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, os.fsencode(options))
    _check(done, f"overlay mount at {merged}")
    return merged


def unmount(directory: Path) -> None:
    """End the mount; a file still open in it does not hinder that. Idempotent."""
    merged = directory / MERGED
    while os.path.ismount(merged):
        _check(_libc.umount2(os.fsencode(merged), _MNT_DETACH), f"unmount of {merged}")
    for link in (directory / _LINKS).glob("*"):
        link.unlink()


def sweep(parent: Path, keep: Iterable[str]) -> list[Path]:
    """Unmount what is mounted below `parent` for containers that are not in `keep` (names).

    For the agent's start. Returns the directories whose mount was ended.
    """
    kept = set(keep)
    ended: list[Path] = []
    for place in mounts_below(parent):
        owner = place.relative_to(parent).parts[0]
        if owner not in kept:
            _check(_libc.umount2(os.fsencode(place), _MNT_DETACH), f"unmount of {place}")
            ended.append(parent / owner)
    return list(dict.fromkeys(ended))


def mounts_below(parent: Path) -> list[Path]:
    """Mount points below a directory, innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = Path(_unescape(line.split(" ")[4]))
        if parent in place.parents:
            found.append(place)
    return found[::-1]


def resolve_user(rootfs: Path, wanted: str, extra: Iterable[str] = ()) -> User:
    """Who `User` (`name`, `uid`, `name:group`, ...) and `GroupAdd` are in this image."""
    passwd = _read_inside(rootfs, "etc/passwd")
    return find_user(wanted, passwd, _read_inside(rootfs, "etc/group"), tuple(extra))


def make_workdir(rootfs: Path, path: str) -> None:
    """Have the working directory exist, as Docker does; new parts belong to root."""
    if not path.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{path}' is invalid, it needs to be an absolute path",
            field="WorkingDir",
        )
    at = open_inside(rootfs, "/", os.O_PATH | os.O_DIRECTORY)
    try:
        reached = ""
        for part in [part for part in os.path.normpath(path).split("/") if part]:
            reached = f"{reached}/{part}"
            inner = _enter(rootfs, at, part, reached)
            os.close(at)
            at = inner
    finally:
        os.close(at)


def open_inside(rootfs: Path, path: str, flags: int, mode: int = 0) -> int:
    """open(2) as if `rootfs` were the root directory: nothing leads out of it."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        name = os.fsencode(path)
        fd = _libc.syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
    finally:
        os.close(root)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(fd)


def resolve_device(
    host_path: str, inside: str = "", permissions: str = "rwm"
) -> ResolvedDevice:
    """A device node of the host, for `HostConfig.Devices`."""
    try:
        found = os.stat(host_path)
    except OSError as error:
        raise NotFound(
            f'error gathering device information while adding custom device "{host_path}": '
            f"{(error.strerror or '').lower()}"
        ) from error
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise InvalidArgument(f'"{host_path}" is not a device node', field="HostConfig.Devices")
    return ResolvedDevice(
        path=inside or host_path,
        kind="c" if stat.S_ISCHR(found.st_mode) else "b",
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        permissions=permissions,
    )


def host_devices(root: Path = Path("/dev")) -> Iterator[ResolvedDevice]:
    """All device nodes of the host but terminals in use and what a container has of its own."""
    for directory, folders, files in os.walk(root):
        folders[:] = sorted({*folders} - _NOT_SHARED)
        for name in sorted({*files} - {"console"}):
            path = os.path.join(directory, name)
            with contextlib.suppress(NotFound, InvalidArgument):  # gone meanwhile; no device
                if not os.path.islink(path):
                    yield resolve_device(path)


def block_device(path: str) -> tuple[int, int]:
    """Major and minor number of a block device of the host."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidArgument(
            f"no such block device: {path}", field="HostConfig.Blkio"
        ) from error
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidArgument(f"{path} is no block device", field="HostConfig.Blkio")
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def _short(links: Path, layers: Sequence[Path]) -> list[str]:
    """The layers as they are, or where they are too long by way of short symlinks."""
    plain = [str(layer) for layer in layers]
    if sum(len(os.fsencode(path)) + 1 for path in plain) < _PAGE // 2:
        return plain
    links.mkdir(exist_ok=True)
    short = []
    for number, layer in enumerate(layers):
        link = links / f"{number:x}"
        link.unlink(missing_ok=True)
        link.symlink_to(layer)
        short.append(str(link))
    return short


def _enter(rootfs: Path, at: int, part: str, path: str) -> int:
    """Open the directory `part` of `at`, made where it is missing."""
    try:
        try:
            return open_inside(rootfs, path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            os.mkdir(part, 0o755, dir_fd=at)  # `at` is inside, and `part` is one plain name
            return open_inside(rootfs, path, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise InvalidArgument(
            f"the working directory {path} cannot be made: {error.strerror}", field="WorkingDir"
        ) from error


def _read_inside(rootfs: Path, path: str) -> str:
    try:
        fd = open_inside(rootfs, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _READ_LIMIT).decode(errors="replace")
    finally:
        os.close(fd)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
