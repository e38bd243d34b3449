"""Which mappings may be given back."""

from shoal.host.memory import unchanged_libraries

SMAPS = """\
7f0000000000-7f0000002000 r--p 00000000 08:01 11  /usr/lib/libone.so.1
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
7f0000002000-7f0000005000 r-xp 00002000 08:01 11  /usr/lib/libone.so.1
Anonymous:             0 kB
7f0000005000-7f0000006000 r--p 00005000 08:01 11  /usr/lib/libone.so.1
Anonymous:             4 kB
7f0000006000-7f0000007000 rw-p 00006000 08:01 11  /usr/lib/libone.so.1
Anonymous:             0 kB
7f0000008000-7f0000009000 r--p 00000000 08:01 12  /usr/lib/locale/C.utf8/LC_CTYPE
Anonymous:             0 kB
7f000000a000-7f000000b000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f000000c000-7f000000d000 r--s 00000000 08:01 13  /run/shared.so
Anonymous:             0 kB
"""


def test_only_what_is_as_in_a_librarys_file() -> None:
    found = list(unchanged_libraries(SMAPS.splitlines()))
    assert found == [(0x7F0000000000, 0x2000), (0x7F0000002000, 0x3000)]
