"""`shoal doctor`: runs all checks; exit status 1 if one of them found a problem.

Found by name from `shoal.cli.__main__`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from shoal.cli.doctor.checks import CHECKS, Check
from shoal.cli.doctor.finding import Finding, Ground, Level, problem
from shoal.common.config import DEFAULT_FILE, load_config

_MARKS = {Level.OK: " ok ", Level.WARNING: "warn", Level.PROBLEM: "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quiet", action="store_true", help="only what is not well")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"TOML; {DEFAULT_FILE}")
    parser.add_argument("--state", metavar="DIR", help="the host's state directory")
    parser.add_argument("--run", metavar="DIR", help="the host's run directory")
    parser.add_argument("--address", metavar="ADDR", help="the host's address")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and tell."""
    flags = vars(arguments)
    as_json, quiet = flags.pop("json"), flags.pop("quiet")
    flags["address"] = flags["address"] or "127.0.0.1"  # a host without a route can be asked
    ground = Ground(config=load_config(flags.pop("config"), flags))
    found = [(check.subject, each) for check in CHECKS for each in look(check, ground)]
    bad = any(each.level is Level.PROBLEM for _, each in found)
    sys.stdout.write(as_object(found) if as_json else as_text(found, quiet=quiet))
    return int(bad)


def look(check: Check, ground: Ground) -> list[Finding]:
    """The findings of a check; one that breaks is itself a finding."""
    try:
        return list(check.look(ground))
    except OSError as error:
        return [problem(f"could not be looked at: {error}", "run it as root; else report it")]


def as_object(found: list[tuple[str, Finding]]) -> str:
    """The JSON form: all findings, and how many of each level."""
    rows: list[dict[str, Any]] = [
        {"subject": subject, **msgspec.to_builtins(each)} for subject, each in found
    ]
    counts = {level.value: sum(e.level is level for _, e in found) for level in Level}
    return msgspec.json.encode({"counts": counts, "findings": rows}).decode() + "\n"


def as_text(found: list[tuple[str, Finding]], *, quiet: bool) -> str:
    """A line a finding, and what would help below it."""
    lines = []
    for subject, each in found:
        if quiet and each.level is Level.OK:
            continue
        lines.append(f"[{_MARKS[each.level]}] {subject}: {each.says}")
        if each.helps:
            lines.append(f"       {each.helps}")
    bad = sum(each.level is Level.PROBLEM for _, each in found)
    meh = sum(each.level is Level.WARNING for _, each in found)
    lines.append(f"{bad} problems, {meh} warnings, {len(found) - bad - meh} checks are well")
    return "\n".join(lines) + "\n"
