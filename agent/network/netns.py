"""Network namespaces of threads: make one, be in one for a while.

A namespace is held as a file descriptor and never mounted anywhere, so it vanishes by itself
with the last process in it. The calls change the calling thread only; `instance` makes them in
its own. Python has them in `os` from 3.12 on.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(descriptor: int) -> None:
    """Move the calling thread into a namespace."""
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


def current() -> int:
    """A new descriptor of the calling thread's namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def new_namespace() -> Iterator[int]:
    """Make a namespace and stay in it for the block; yields its descriptor, the caller's."""
    home = current()
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        try:
            yield current()
        finally:
            enter(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def visiting(descriptor: int) -> Iterator[None]:
    """Be in a namespace for the block."""
    home = current()
    try:
        enter(descriptor)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
