"""Memory that kernel and C library hold for us, kept small. Called before any thread is.

Of each library's file the dynamic linker has read the relocations, and importing has run code
that never runs again. The host itself runs next to nothing of them later, and a fork does not
take mapped files along: children map for themselves what they use.
"""

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_M_ARENA_MAX = -8

_libc = ctypes.CDLL(None, use_errno=True)


def share_one_arena() -> None:
    """Have the threads of this process and its children allocate from one heap.

    Each would begin one of its own; ours mostly wait for the interpreter's lock anyway.
    """
    _libc.mallopt(_M_ARENA_MAX, 1)


def give_back_libraries() -> None:
    """Unmap libraries' pages that are as in their files; what is used again comes back."""
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
