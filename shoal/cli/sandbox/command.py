"""`shoal sandbox ...`: options, output, exit codes. Progress goes to stderr, results to stdout.

The verbs themselves are in `lifecycle`. Called by `shoal.cli.__main__`.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from shoal.cli.sandbox import boot
from shoal.cli.sandbox.lifecycle import Lifecycle
from shoal.cli.sandbox.plan import HostPlan, SandboxPlan, check_name
from shoal.cli.sandbox.processes import DAEMONS
from shoal.cli.sandbox.registry import DEFAULT_BASE, Registry
from shoal.model.errors import ClusterError, InvalidArgument

DEFAULT_NAME = "default"
_BASE_VARIABLE = "SHOAL_SANDBOX_DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs of `shoal sandbox`."""
    verbs = parser.add_subparsers(dest="sandbox_verb", required=True, metavar="VERB")
    up = _verb(verbs, "up", "make hosts and, unless --bare, one cluster of them")
    up.add_argument("--managers", type=int, default=3, metavar="M")
    up.add_argument("--workers", type=int, default=2, metavar="W")
    up.add_argument("--bare", action="store_true", help="hosts run, but form no cluster yet")
    up.add_argument(
        "--uplink", action="store_true", help="hosts reach what this machine reaches"
    )
    up.add_argument("--json", action="store_true", help="print the hosts as JSON")
    _verb(verbs, "down", "remove the sandbox without a trace")
    ls = _verb(verbs, "ls", "show hosts of all sandboxes, or of the one named")
    ls.set_defaults(name=None)
    ls.add_argument("--json", action="store_true", help="print the hosts as JSON")
    run_in = _verb(verbs, "exec", "run a command on a host: exec HOST -- CMD")
    run_in.add_argument("host")
    run_in.add_argument("command", nargs="*", metavar="-- CMD")
    _verb(verbs, "stop", "end a host's daemons in order; containers stay").add_argument("host")
    kill = _verb(verbs, "kill", "cut a host's power, or kill one of its daemons")
    kill.add_argument("host")
    kill.add_argument("what", nargs="?", default="", choices=["", *DAEMONS, "daemons"])
    _verb(verbs, "start", "boot a host, or start its daemons").add_argument("host")
    link = _verb(verbs, "link", "link HOST down|up, or link HOST drop PEER")
    link.add_argument("host")
    link.add_argument(
        "action", choices=["down", "up", "drop"], help="`up` also takes back what `drop` cut"
    )
    link.add_argument("peer", nargs="?")


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--name", default=DEFAULT_NAME, help="name of the sandbox")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get(_BASE_VARIABLE, DEFAULT_BASE)),
        help=f"where sandboxes keep their files (${_BASE_VARIABLE}; default {DEFAULT_BASE})",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; an error is one sentence on stderr and exit code 1."""
    try:
        if os.geteuid() != 0:
            print("shoal sandbox needs root: it makes network namespaces", file=sys.stderr)
            return 1
        return _run(args)
    except ClusterError as error:
        print(f"shoal sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("shoal sandbox: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    registry = Registry(args.dir.absolute())
    lifecycle = Lifecycle(registry, _say)
    match args.sandbox_verb:
        case "up":
            return _up(lifecycle, args)
        case "down":
            if not lifecycle.down(args.name):
                _say(f"there is no sandbox {args.name}")
        case "ls":
            return _ls(lifecycle, registry, args)
        case "exec":
            _exec(registry, args)
        case "stop":
            lifecycle.stop(args.name, args.host)
        case "start":
            lifecycle.start(args.name, args.host)
        case "kill":
            lifecycle.kill(args.name, args.host, args.what)
        case "link":
            lifecycle.link(args.name, args.host, args.action, args.peer)
        case _:
            raise InvalidArgument(f"shoal sandbox has no verb {args.sandbox_verb}")
    return 0


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _up(lifecycle: Lifecycle, args: argparse.Namespace) -> int:
    plan = lifecycle.up(
        args.name,
        managers=args.managers,
        workers=args.workers,
        bare=args.bare,
        uplink=args.uplink,
    )
    if args.json:
        _print_json(lifecycle, plan.hosts)
    else:
        _say(f"try: export DOCKER_HOST={plan.hosts[0].docker_host}")
    return 0


def _print_json(lifecycle: Lifecycle, hosts: list[HostPlan]) -> None:
    print(json.dumps({"hosts": [lifecycle.show(host) for host in hosts]}, indent=2))


def _ls(lifecycle: Lifecycle, registry: Registry, args: argparse.Namespace) -> int:
    if args.name is not None:
        check_name(args.name)
    plans = registry.list() if args.name is None else [registry.get(args.name)]
    if args.json:
        _print_json(lifecycle, [host for plan in plans for host in plan.hosts])
        return 0
    rows = [("SANDBOX", "HOST", "ROLE", "ADDRESS", "STATE", "DOCKER_HOST")]
    rows += [_row(lifecycle, plan, host) for plan in plans for host in plan.hosts]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(
                text.ljust(width) for text, width in zip(row, widths, strict=True)
            ).rstrip()
        )
    return 0


def _row(
    lifecycle: Lifecycle, plan: SandboxPlan, host: HostPlan
) -> tuple[str, str, str, str, str, str]:
    state = lifecycle.state(plan, host)
    return (plan.name, host.name, host.role, host.address, state, host.docker_host)


def _exec(registry: Registry, args: argparse.Namespace) -> NoReturn:
    if not args.command:
        raise InvalidArgument("exec HOST -- CMD needs a command")
    boot.run_inside(registry.get(args.name).host(args.host), args.command)
