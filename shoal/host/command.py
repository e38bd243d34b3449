"""The flags of `shoal host`. Found by name from `shoal.cli.__main__`."""

import argparse
from pathlib import Path

from shoal.common.config import DEFAULT_FILE, load_config
from shoal.common.log import set_up
from shoal.host.processes import Programs
from shoal.host.run import run_host

_PORTS = {
    "--port": "gRPC of the managers (2377)",
    "--join-port": "joining hosts (2378)",
    "--etcd-port": "etcd's peers (2384)",
    "--agent-port": "the agents' Engine API, for managers (7946)",
    "--vxlan-port": "VXLAN over UDP (4789)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; each has the name of its setting in `HostConfig`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"TOML; {DEFAULT_FILE}")
    parser.add_argument("--state", metavar="DIR", help="what survives a restart")
    parser.add_argument("--run", metavar="DIR", help="sockets and pids")
    parser.add_argument("--address", metavar="ADDR", help="where other hosts reach this one")
    parser.add_argument("--hostname", metavar="NAME", help="the node's name")
    parser.add_argument("--instance", metavar="PREFIX", help="prefix of kernel objects' names")
    parser.add_argument("--data-path-address", metavar="ADDR", help="address of VXLAN traffic")
    parser.add_argument("--etcd", metavar="FILE", help="another etcd program than PATH's")
    parser.add_argument("--labels", action="append", metavar="NAME=VALUE", help="engine label")
    parser.add_argument("--generic-resources", action="append", metavar="KIND=VALUE",
                        help="a name or a number that tasks can reserve")  # fmt: skip
    for flag, text in _PORTS.items():
        parser.add_argument(flag, type=int, metavar="PORT", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Be the host process of this machine until a signal comes."""
    flags = vars(arguments)
    config = load_config(flags.pop("config"), flags)
    set_up("host")
    run_host(config, Programs())
    return 0
