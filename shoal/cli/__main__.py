"""The `shoal` command: finds the verb's module by name and hands over.

Nothing but argparse is imported before the verb is known: `shoal --help` answers at once, and
`shoal host` forks its children from an image without the client's libraries. A verb's module
has `add_arguments(parser)` and `run(arguments) -> int`.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Verb(NamedTuple):
    """A verb and where its module is."""

    name: str
    module: str
    help: str


VERBS = (
    Verb("host", "shoal.host.command", "run this machine as a host; what systemd starts"),
    Verb(
        "doctor", "shoal.cli.doctor.command", "say what is wrong with this host, and what helps"
    ),
    Verb("sandbox", "shoal.cli.sandbox.command", "several hosts on this machine, to try it on"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="shoal", description="A container platform out of a few Linux hosts."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), "")
    run: Callable[[argparse.Namespace], int] | None = None
    for verb in VERBS:
        subparser = verbs.add_parser(verb.name, help=verb.help, description=verb.help)
        if verb.name == chosen:
            module = importlib.import_module(verb.module)
            module.add_arguments(subparser)
            run = module.run
    # what follows `--` is another program's: argparse would take options before it for that too
    ours, theirs = _split(words)
    arguments = parser.parse_args(ours)
    del arguments.verb
    if run is None:
        parser.error("a verb is wanted")
    if theirs:
        if "command" not in arguments:
            parser.error(f"nothing is expected after --, but there is {theirs[0]}")
        arguments.command = [*arguments.command, *theirs]
    return _run(run, arguments)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before `--` and those after it."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _run(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    from shoal.model.errors import ClusterError  # here, lest `--help` load it

    try:
        code = run(arguments)
        sys.stdout.flush()
    except ClusterError as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # who read our output has enough of it (`| head`); the rest must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    else:
        return code


if __name__ == "__main__":
    sys.exit(main())
