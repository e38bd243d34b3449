"""What a check says, and what it is given to look at."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from shoal.common.config import HostConfig
from shoal.common.programs import Answer, run_program


class Level(StrEnum):
    """How bad it is: problems keep Shoal from working, warnings will bite some day."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence about the host; `helps` says what to do, empty where all is well."""

    level: Level
    says: str
    helps: str = ""


def ok(says: str) -> Finding:
    return Finding(level=Level.OK, says=says)


def warning(says: str, helps: str) -> Finding:
    return Finding(level=Level.WARNING, says=says, helps=helps)


def problem(says: str, helps: str) -> Finding:
    return Finding(level=Level.PROBLEM, says=says, helps=helps)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What checks look at: the host as it is configured, which may run or not."""

    config: HostConfig

    def run(self, command: Sequence[str], stdin: str = "") -> Answer:
        """Run a command for its output; a program that is missing has status 127."""
        return run_program(command, stdin)
