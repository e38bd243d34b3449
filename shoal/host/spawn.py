"""How a child comes to be: forked from the warm image, or forked and executed (etcd).

A child dies with the host (parent-death signal), leads its own process group (so that a
terminal's interrupt reaches the host alone, which ends its children in order), has default
signal handling and an empty stdin. Called by the supervisor, which must have no threads.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_TIMERSLACK = 29
# A Go program that wakes looks around every 20 microseconds for a while: a third of what an
# idle etcd costs. Its ticks are 100 ms apart.
_SLACK_NANOSECONDS = 1_000_000
# Between the kernel's "never" (-1000) and what an operator may give to databases and sshd.
_PROTECTED = -900

_libc = ctypes.CDLL(None, use_errno=True)


def fork_program(name: str, run: Callable[[], int | None]) -> int:
    """Fork; the child runs `run` and exits with what it returns. Returns the child's pid."""
    parent = os.getpid()
    pid = _fork()
    if pid:
        return pid
    status = 1
    try:
        _settle(name, parent)
        status = run() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may unwind into the supervisor's stack
        traceback.print_exc()
    finally:
        _leave(status)


def execute(
    name: str, argv: Sequence[str], env: Mapping[str, str], directory: Path, keep: Sequence[int]
) -> int:
    """Fork and execute, protected from the OOM killer; OSError if it cannot be executed.

    Its timers may be late by a millisecond, so that those that are near wake it once.

    The descriptors in `keep` stay open in the program.
    """
    parent = os.getpid()
    environment = {**os.environ, **env}
    heard, said = os.pipe2(os.O_CLOEXEC)
    pid = _fork()
    if pid:
        os.close(said)
        with open(heard, "rb") as report:
            complaint = report.read()
        if complaint:
            os.waitpid(pid, 0)
            raise OSError(int(complaint), os.strerror(int(complaint)), argv[0])
        return pid
    try:
        _settle(name, parent)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.chdir(directory)
        _protect()
        _libc.prctl(_PR_SET_TIMERSLACK, _SLACK_NANOSECONDS, 0, 0, 0)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        os.execvpe(argv[0], list(argv), environment)  # noqa: S606 - no shell wanted
    except OSError as error:
        os.write(said, str(error.errno).encode())
    finally:
        _leave(127)


def _fork() -> int:
    """Fork; signals stay blocked in the child until `_settle`.

    One that came before that would end in the supervisor's handlers and be lost.
    """
    _flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _settle(name: str, parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above took effect
        os._exit(1)
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setpgid(0, 0)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _protect() -> None:
    """Unprivileged hosts (a test, a container) run unprotected: that is their choice."""
    with contextlib.suppress(PermissionError):
        Path("/proc/self/oom_score_adj").write_text(str(_PROTECTED))


def _leave(status: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        _flush()
    os._exit(status)
