"""Memory that kernel and C library hold for us, kept small. Called before any thread is.

Of each library's file the dynamic linker has read the relocations, and importing has run code
that never runs again. The host itself runs next to nothing of them later, and a fork does not
take mapped files along: children map for themselves what they use.
"""

import ctypes
import gc
from collections.abc import Iterable, Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_M_ARENA_MAX = -8
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = 128 << 10

_libc = ctypes.CDLL(None, use_errno=True)


def keep_heap_small() -> None:
    """Have this process and its children allocate from one heap, and return what is large.

    Each thread would begin a heap of its own; ours mostly wait for the interpreter's lock
    anyway. And the C library takes whatever large block was freed once for a sign to keep such
    blocks: what a start needed for a moment would stay for ever.
    """
    _libc.mallopt(_M_ARENA_MAX, 1)
    _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    _libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return what importing needed: holes in the heap, and libraries' pages as in their files.

    What is used again comes back. Python's own garbage goes first, and what stays is never
    looked at again.
    """
    gc.collect()
    gc.freeze()
    _libc.malloc_trim(0)
    for begin, size in unchanged_libraries(Path("/proc/self/smaps").read_text().splitlines()):
        _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _MADV_DONTNEED)


def unchanged_libraries(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Address and size of mappings of `.so` files that cannot be written and have no own page.

    Relocated data (RELRO) cannot be written either, but has pages that are in no file.
    """
    begin = end = 0
    library = False
    for line in smaps:
        first, *rest = line.split()
        if not first.endswith(":"):
            begin, end = (int(each, 16) for each in first.split("-"))
            library = rest[0] in ("r--p", "r-xp") and len(rest) > 4 and ".so" in rest[4]
        elif library and first == "Anonymous:" and rest[0] == "0":
            yield begin, end - begin
