"""The programs that Shoal runs: there, new enough, and what is known to be wrong with them."""

import shutil
from collections.abc import Iterable
from typing import NamedTuple

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning
from shoal.common.etcd_holes import Version, holes_of, text_of, version_in


class Program(NamedTuple):
    """A program: how it tells its version, the oldest that does, and where it comes from."""

    name: str
    asks: tuple[str, ...]
    oldest: Version
    package: str


PROGRAMS = (
    Program("runc", ("--version",), (1, 1, 0), "runc"),
    Program("conmon", ("--version",), (2, 0, 25), "conmon"),
    Program("nft", ("--version",), (0, 9, 8), "nftables"),
    Program("ip", ("-V",), (), "iproute2"),
    Program("skopeo", ("--version",), (1, 2, 0), "skopeo"),
)
ETCD = Program("etcd", ("--version",), (3, 4, 23), "etcd-server")


def programs(ground: Ground) -> Iterable[Finding]:
    """All but etcd."""
    for program in PROGRAMS:
        yield judge(program, *_ask(ground, program, program.name))


def etcd(ground: Ground) -> Iterable[Finding]:
    """Etcd, which only managers need."""
    found, said = _ask(ground, ETCD, ground.config.etcd)
    finding = judge(ETCD, found, said)
    yield finding
    if number := version_in(said):
        yield from judge_etcd(number)


def judge(program: Program, path: str, said: str) -> Finding:
    """Whether a program is there and new enough."""
    if not path:
        return problem(
            f"there is no {program.name} on this host",
            f"`apt-get install {program.package}`, or ./scripts/install",
        )
    number = version_in(said)
    if program.oldest and not number:
        return warning(f"{path} tells no version: {said[:80]!r}", "see whether it runs at all")
    if number < program.oldest:
        oldest = ".".join(map(str, program.oldest))
        return problem(
            f"{path} is {text_of(number)}; Shoal needs {oldest} or newer",
            f"install a newer {program.package}",
        )
    return ok(f"{path}{' is ' + text_of(number) if number else ''}")


def judge_etcd(number: Version) -> Iterable[Finding]:
    """What is known to be wrong with a version of etcd."""
    for hole in holes_of(number):
        make = problem if hole.grave else warning
        yield make(
            f"etcd {text_of(number)} {hole.what}",
            f"use etcd {text_of(hole.mended)} or newer: `etcd` in host.toml names it",
        )


def _ask(ground: Ground, program: Program, name: str) -> tuple[str, str]:
    path = shutil.which(name) or ""
    return path, ground.run((path, *program.asks)).said if path else ""
