"""Layers unpacked by the real child: sound ones in overlay form, hostile ones refused."""

import asyncio
import gzip
import io
import os
import stat
import struct
import tarfile
from pathlib import Path

import pytest

from agent.images.blobs import BlobStore
from agent.images.layers import LayerLimits, LayerStore
from shoal.model.errors import InvalidArgument
from tests.unit.agent.images.crafting import entry, folder, sha, tar

pytestmark = pytest.mark.root

LIMITS = LayerLimits(bytes=20_000_000, file=5_000_000, members=200, path=1000)


class Bench:
    """A layer store over a directory, and a way to put one layer through it."""

    def __init__(self, root: Path) -> None:
        self.tmp = root / "tmp"
        self.tmp.mkdir()
        self.blobs = BlobStore(root / "blobs")
        self.blobs.prepare()
        self.layers = LayerStore(root / "layers", self.tmp, self.blobs, LIMITS)
        self.layers.prepare()

    async def unpack(self, plain: bytes, blob: bytes | None = None, diff: str = "") -> Path:
        content = plain if blob is None else blob
        self.blobs.path(sha(content)).write_bytes(content)
        await self.layers.ensure(diff or sha(plain), sha(content))
        return self.layers.path(diff or sha(plain))

    def assert_nothing_left(self) -> None:
        assert list(self.tmp.iterdir()) == []
        assert self.layers.diff_ids() == set()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_sound_layer(bench: Bench, compressed: bool) -> None:
    plain = tar(
        folder("./"),
        folder("etc", 0o750),
        entry("etc/passwd", b"root", uid=7, gid=8, mode=0o4755, mtime=12345),
        entry("etc/again", type=tarfile.LNKTYPE, linkname="etc/passwd"),
        entry("lib", type=tarfile.SYMTYPE, linkname="/usr/lib"),
        entry("etc/up", type=tarfile.SYMTYPE, linkname="../lib"),
        entry("missing/parent/file", b"x"),
        entry("/absolute/inside", b"in"),
        entry("pipe", type=tarfile.FIFOTYPE),
        entry("etc/.wh.gone"),
        folder("var"),
        entry("var/.wh..wh..opq"),
        entry(".wh..wh.plnk"),
    )
    path = await bench.unpack(plain, gzip.compress(plain) if compressed else None)
    found = (path / "etc/passwd").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (7, 8, 0o4755)
    assert found.st_mtime == 12345
    assert (path / "etc/again").stat().st_ino == found.st_ino
    assert (path / "lib").readlink() == Path("/usr/lib")
    assert (path / "absolute/inside").read_bytes() == b"in"
    assert (path / "etc").stat().st_mode & 0o7777 == 0o750
    gone = (path / "etc/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(path / "var", "trusted.overlay.opaque") == b"y"
    assert not (path / ".wh..wh.plnk").exists()
    assert bench.layers.size(sha(plain)) == 4 + 1 + 2
    assert list(bench.tmp.iterdir()) == []


async def test_later_members_win(bench: Bench) -> None:
    plain = tar(
        entry("a", b"1"),
        entry("a", b"22"),
        folder("d"),
        entry("d/x", b""),
        entry("d", b"now a file"),
        entry(".wh.w"),
        folder("w"),
    )
    path = await bench.unpack(plain)
    assert (path / "a").read_bytes() == b"22"
    assert (path / "d").read_bytes() == b"now a file"
    assert os.getxattr(path / "w", "trusted.overlay.opaque") == b"y"


async def test_attributes_kept_and_dropped(bench: Bench) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    text = capability.decode("utf-8", "surrogateescape")
    names = {
        "SCHILY.xattr.security.capability": text,
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.security.selinux": "label",
    }
    path = await bench.unpack(tar(entry("f", b"x", pax_headers=names))) / "f"
    assert os.getxattr(path, "security.capability") == capability
    assert set(os.listxattr(path)) == {"security.capability", "user.note"}


def _long_name(count: int) -> str:
    return "/".join(["d"] * count)


HOSTILE = {
    "path traversal": ([entry("../../etc/evil", b"x")], "climbs out"),
    "traversal within": ([entry("a/../../evil", b"x")], "climbs out"),
    "written through a link": (
        [entry("out", type=tarfile.SYMTYPE, linkname="/etc"), entry("out/evil", b"x")],
        "through the link",
    ),
    "link out": ([entry("out", type=tarfile.SYMTYPE, linkname="../../etc")], "leads out"),
    "hard link out": (
        [entry("out", type=tarfile.LNKTYPE, linkname="../../etc/passwd")],
        "climbs out",
    ),
    "hard link to the host": (
        [entry("out", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        "no file of this layer",
    ),
    "hard link through a link": (
        [
            entry("e", type=tarfile.SYMTYPE, linkname="/etc"),
            entry("out", type=tarfile.LNKTYPE, linkname="e/passwd"),
        ],
        "goes through a link",
    ),
    "device": (
        [entry("sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
        "is a device node",
    ),
    "overlay whiteout as a device": (
        [entry("w", type=tarfile.CHRTYPE, devmajor=0, devminor=0)],
        "is a device node",
    ),
    "whiteout of the parent": ([entry("a/.wh...", b"")], "whiteout names nothing"),
    "whiteout of nothing": ([entry("a/.wh.", b"")], "whiteout names nothing"),
    "trusted attribute": (
        [entry("f", b"", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/x"})],
        "sets the attribute",
    ),
    "huge file": ([entry("f", b"\0" * 5_000_001)], "larger than 5000000 bytes"),
    "too many members": ([entry(f"f{n}", b"") for n in range(201)], "more than 200 members"),
    "long path": ([entry("x" * 1001, b"")], "longer than 1000 bytes"),
    "long name": ([entry("x" * 300, b"")], "cannot be placed"),
    "deep path": ([entry(_long_name(201), b"")], "deeper than 200"),
    "time out of range": ([entry("f", b"", pax_headers={"mtime": "1e300"})], ""),
}


@pytest.mark.parametrize("name", list(HOSTILE))
async def test_hostile_members_are_refused(bench: Bench, name: str) -> None:
    members, sentence = HOSTILE[name]
    with pytest.raises(InvalidArgument) as refused:
        await bench.unpack(tar(*members))
    assert sentence in str(refused.value)
    bench.assert_nothing_left()


def _sparse_bomb() -> bytes:
    """A GNU sparse file of a terabyte in one block of archive."""
    member = tarfile.TarInfo("bomb")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o " % (1 << 32)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def _claiming(size: int, kind: bytes) -> bytes:
    member = tarfile.TarInfo("f")
    member.size = size
    member.type = kind
    return member.tobuf(tarfile.PAX_FORMAT) + bytes(512)


STREAMS = {
    "endless zeros in gzip": (gzip.compress(bytes(30_000_000)), "more than 20000000 bytes"),
    "truncated gzip": (gzip.compress(tar(entry("f", b"x" * 9000)))[:-9], "ends early"),
    "rubbish after gzip": (gzip.compress(tar(entry("f"))) + b"rubbish", "is broken"),
    "no archive": (b"this is no tar archive" * 100, ""),
    "data after the end": (tar(entry("f")) + b"x" * 512, "after the end"),
    "broken header": (tar(entry("f"))[:512] + b"\1" * 512 + bytes(1024), "broken header"),
    "file cut short": (_claiming(4000, tarfile.REGTYPE), ""),
    "huge extended header": (_claiming(1 << 30, tarfile.XHDTYPE), "header of 1073741824"),
    "huge long name": (_claiming(1 << 30, tarfile.GNUTYPE_LONGNAME), "header of 1073741824"),
    "sparse bomb": (_sparse_bomb(), "larger than"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
}


@pytest.mark.parametrize("name", list(STREAMS))
async def test_hostile_streams_are_refused(bench: Bench, name: str) -> None:
    content, sentence = STREAMS[name]
    with pytest.raises(InvalidArgument) as refused:
        await bench.unpack(content)
    assert sentence in str(refused.value)
    bench.assert_nothing_left()


async def test_wrong_digests_are_refused(bench: Bench) -> None:
    plain = tar(entry("f", b"x"))
    with pytest.raises(InvalidArgument, match="configuration says"):
        await bench.unpack(plain, diff=sha(b"other"))
    bench.blobs.path(sha(b"announced")).write_bytes(plain)
    with pytest.raises(InvalidArgument, match="is damaged"):
        await bench.layers.ensure(sha(plain), sha(b"announced"))
    bench.assert_nothing_left()


async def test_two_callers_share_one_layer(bench: Bench) -> None:
    plain = tar(entry("f", b"x"))
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(bench.unpack(plain))
    assert bench.layers.diff_ids() == {sha(plain)}
    assert list(bench.tmp.iterdir()) == []


async def test_a_tar_of_gnu_tar_with_sparse_file(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    command = ("tar", "--sparse", "-C", str(source), "-c", ".")
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    plain, _ = await child.communicate()
    path = await bench.unpack(plain)
    assert (path / "holes").read_bytes() == bytes(1_000_000) + b"end"
    assert io.BytesIO(plain).getbuffer().nbytes < 100_000
