"""Other firewalls of the host that would drop our traffic: what lets it pass, and only there.

An accept of our own table cannot override another's drop, so where Docker's chain `DOCKER-USER`
is, it gets a marked set of rules, after its user's own: what comes from or goes to our bridges
passes to our table, which decides. What goes to Docker's bridges stays Docker's to decide.
firewalld gets our bridges into its `trusted` zone, at run time only. All of it is compared at
each repair and goes with the instance. Everything else that drops is named by `shoal doctor`.

Only firewalls of this network namespace are touched: the programs of iptables work on that of
the calling thread, firewalld on its own, which must be the same. `instance` is the caller.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import structlog

from agent.network.plan import Names
from shoal.common.programs import Answer, run_program

_log = structlog.get_logger(__name__)
_CHAIN = "DOCKER-USER"
_PROGRAMS = ("iptables", "ip6tables")
_DOCKERS = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")


Run = Callable[[Sequence[str], str], Answer]
"""Runs a program with this input; one that is missing has status 127."""


def rules_wanted(names: Names, links: Collection[str]) -> list[str]:
    """Our rules in `DOCKER-USER`; `links` are all of the host."""
    mark = f"-m comment --comment {names.table} -j"
    ours = f"{names.prefix}-+"
    dockers = sorted(each for each in links if _DOCKERS.fullmatch(each))
    return [
        *(f"-A {_CHAIN} -i {ours} -o {bridge} {mark} RETURN" for bridge in dockers),
        f"-A {_CHAIN} -i {ours} {mark} ACCEPT",
        f"-A {_CHAIN} -o {ours} {mark} ACCEPT",
    ]


def chain_changes(listing: str, wanted: Sequence[str], mark: str) -> list[str]:
    """Lines for `iptables-restore` that bring our rules to what is wanted, none if they are so.

    They come after all rules of others, but before one that ends the chain for all packets.
    """
    rules = [line for line in listing.splitlines() if line.startswith("-A ")]
    ours = [rule for rule in rules if f"--comment {mark} " in rule]
    others = [rule for rule in rules if rule not in ours]
    ends = [number for number, rule in enumerate(others) if rule == f"-A {_CHAIN} -j RETURN"]
    place = ends[0] if ends else len(others)
    if rules == [*others[:place], *wanted, *others[place:]]:
        return []
    return [
        *(rule.replace("-A ", "-D ", 1) for rule in ours),
        *(
            rule.replace(f"-A {_CHAIN}", f"-I {_CHAIN} {place + number}", 1)
            for number, rule in enumerate(wanted, 1)
        ),
    ]


class Firewalls:
    """What this instance asks of the host's other firewalls."""

    def __init__(
        self,
        names: Names,
        run: Run | None = None,
        firewalld_is_here: Callable[[], bool] | None = None,
    ) -> None:
        self._names = names
        self._run = run or run_program
        self._firewalld_is_here = firewalld_is_here or firewalld_is_here_too
        self._failed: set[str] = set()
        self._trusted = False

    def apply(self, links: Collection[str], *, changed: bool) -> None:
        """Bring our rules there; `changed`: some firewall's table changed since last time."""
        for program in _PROGRAMS:
            self._set(program, rules_wanted(self._names, links))
        if changed or not self._trusted:
            self._trusted = self._trust("add", unless_already=True)

    def remove(self) -> None:
        """Take all of it away."""
        for program in _PROGRAMS:
            self._set(program, [])
        self._trust("remove")
        self._trusted = False

    def _set(self, program: str, wanted: Sequence[str]) -> None:
        listed = self._run((program, "-w", "-S", _CHAIN), "")
        if listed.status != 0:
            return  # no such program, or no Docker
        changes = chain_changes(listed.said, wanted, self._names.table)
        if changes:
            text = "\n".join(("*filter", *changes, "COMMIT", ""))
            done = self._run((f"{program}-restore", "-w", "--noflush"), text)
            self._tell(program, done)

    def _trust(self, verb: str, *, unless_already: bool = False) -> bool:
        """Whether nothing is to be done until a firewall changes."""
        if not self._firewalld_is_here():
            return True
        zone = ("firewall-cmd", "--zone=trusted")
        bridges = f"{self._names.prefix}-+"
        if (
            unless_already
            and self._run((*zone, f"--query-interface={bridges}"), "").status == 0
        ):
            return True
        done = self._run((*zone, f"--{verb}-interface={bridges}"), "")
        self._tell("firewalld", done)
        return done.status == 0

    def _tell(self, what: str, done: Answer) -> None:
        """Log a failure once, until it works again."""
        if done.status == 0:
            self._failed.discard(what)
            _log.info("another firewall changed for our traffic", firewall=what)
        elif what not in self._failed:
            self._failed.add(what)
            _log.warning(
                "another firewall may drop our traffic", firewall=what, reason=done.said
            )


def firewalld_is_here_too() -> bool:
    """Whether firewalld runs, and guards the network namespace of the calling thread."""
    if shutil.which("firewall-cmd") is None:
        return False
    own = os.stat("/proc/thread-self/ns/net").st_ino
    return any(namespace == own for namespace in _namespaces_of("firewalld"))


def _namespaces_of(name: str) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "comm").read_text().strip() == name:
                    yield (process / "ns/net").stat().st_ino
            except OSError:
                continue  # ended meanwhile
