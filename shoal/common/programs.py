"""Run another program for what it says. Blocking; for the doctor and the network's thread."""

import subprocess
from collections.abc import Sequence

import msgspec

_SECONDS = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What a program said."""

    status: int
    said: str


def run_program(command: Sequence[str], stdin: str = "") -> Answer:
    """In the network namespace of the calling thread; one that is missing has status 127."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return Answer(127, f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        return Answer(124, f"{command[0]} did not end within {_SECONDS:.0f} s")
    return Answer(done.returncode, (done.stdout + done.stderr).strip())
